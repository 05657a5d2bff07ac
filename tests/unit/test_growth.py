"""The soak tells a process that leaks from one whose load goes up and down."""

from itertools import cycle

from harness.growth import Held, Life

MIB = 2**20


def life(resident: list[int], files: list[int]) -> Life:
    """Return a life that was looked at every two seconds."""
    looks = [(30.0 + 2 * number, Held(*held)) for number, held in enumerate(zip(resident, files, strict=True))]
    return Life("worker-1", looks)


def test_what_comes_and_goes_is_no_growth() -> None:
    busy = cycle([14, 24, 27, 23, 24])
    resident = [90 * MIB + number % 3 * MIB for number in range(60)]
    steady = life(resident, [next(busy) for _ in resident])
    assert steady.seconds == 118
    assert steady.growth.resident <= MIB < steady.allowed.resident
    assert steady.growth.files <= 2 < steady.allowed.files


def test_a_file_with_every_attempt_is_too_much_within_a_minute() -> None:
    leaking = life([90 * MIB] * 30, [24 + number for number in range(30)])
    assert leaking.growth.files > leaking.allowed.files


def test_256_kib_with_every_attempt_are_too_much_within_a_minute() -> None:
    leaking = life([90 * MIB + number * 256 * 2**10 for number in range(30)], [24] * 30)
    assert leaking.growth.resident > leaking.allowed.resident
