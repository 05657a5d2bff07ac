"""How much is measured: jobs in line, users, claims, submissions; and what the workers offer that claim."""

from dataclasses import dataclass

from models.demand import GIB, Demand
from models.forecast import Running
from models.line import Offer

USERS = 200
QUEUE = "default"
_GPUS = {f"GPU-{number}": 80 * GIB for number in range(4)}
_RUNNING = [Running(Demand("cuda", 1, None, exclusive=False), [uuid], 3_600.0) for uuid in _GPUS]
# What decides how much of the line a claim has to look at.
OFFERS = {
    "four idle GPUs": Offer(
        [QUEUE],
        free_slots=4,
        has_gpus=True,
        idle_gpu_bytes=list(_GPUS.values()),
        shared_gpu_bytes=80 * GIB,
        gpus=_GPUS,
    ),
    "the CPU alone": Offer([QUEUE], free_slots=4),
    "four GPUs that are taken": Offer([QUEUE], free_slots=4, has_gpus=True, gpus=_GPUS, running=_RUNNING),
}


@dataclass(frozen=True)
class Scale:
    """One run: at most `claims` of each kind in a line of each of these lengths, and `submissions` of each kind."""

    lengths: tuple[int, ...]
    claims: int
    submissions: int
    waiting: int = 1_000  # jobs that the worker cannot run, while submissions are timed

    def claims_of(self, length: int) -> int:
        """Return how many claims of each kind are timed in a line of this length: they must not use it up."""
        return min(self.claims, length // 20)


FULL = Scale(lengths=(1_000, 10_000, 100_000), claims=200, submissions=50)
QUICK = Scale(lengths=(1_000, 10_000), claims=20, submissions=3)
