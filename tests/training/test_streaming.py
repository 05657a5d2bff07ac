"""Data that do not fit: batches read from a file while the network trains must be those of data on the device."""

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.lib.format import open_memmap
from torch import Tensor

from harness.training import Fresh, MakeJob
from models.errors import DataCacheDamaged
from models.result import Result
from worker.training.data import BatchedSplit, DeviceSplit
from worker.training.loop import evaluate, fit, train_one_epoch
from worker.training.streaming import StreamedSplit

CPU = torch.device("cpu")
SCALE: dict[str, Any] = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.25)}
NETWORK: dict[str, Any] = {"name": "cnn", "channels": [4], "hidden": [8], "dropout": 0.2}
AUGMENTED: dict[str, Any] = {
    "augmentation": {
        "random_crop": {"padding": 2},
        "horizontal_flip": 0.5,
        "color_jitter": {"brightness": 0.3, "saturation": 0.3},
        "cutout": {"size": 3},
    }
}


def mapped(path: Path, values: np.ndarray) -> np.ndarray:
    """Write the values to a file and return them mapped from it, as the cache of data sets does."""
    np.save(path, values)
    return open_memmap(path, mode="r")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "train_images.npy"


@pytest.fixture
def images(file: Path) -> np.ndarray:
    return mapped(file, np.random.default_rng(0).integers(0, 256, (210, 3, 32, 32), dtype=np.uint8))


@pytest.fixture
def labels() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 10, 210)


def both(
    inputs: np.ndarray, targets: np.ndarray, rows: np.ndarray | None = None, **more: Any
) -> tuple[BatchedSplit, BatchedSplit]:
    """Return the split on the device and the streamed one; `targets` are those of all inputs."""
    own = targets if rows is None else targets[rows]
    return (
        DeviceSplit(inputs, own, rows=rows, device=CPU, **more),
        StreamedSplit(inputs, own, rows=rows, device=CPU, **more),
    )


def reading_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "batches"]


@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("part", [False, True], ids=["all rows", "some rows"])
def test_a_streamed_split_has_the_batches_of_one_on_the_device(
    images: np.ndarray, labels: np.ndarray, memory_format: torch.memory_format, part: bool
) -> None:
    rows = np.arange(3, 200, 2) if part else None
    device, streamed = both(images, labels, rows, memory_format=memory_format, **SCALE)
    order = torch.randperm(len(device), generator=torch.Generator().manual_seed(3))
    expected, found = list(device.batches(32, order)), list(streamed.batches(32, order))
    assert [len(targets) for _, targets in found] == [len(targets) for _, targets in expected]
    for (inputs, targets), (same_inputs, same_targets) in zip(expected, found, strict=True):
        assert torch.equal(inputs, same_inputs)
        assert torch.equal(targets, same_targets)
        assert same_inputs.is_contiguous(memory_format=memory_format)
    assert torch.equal(device.batch(slice(5, 50, 7))[0], streamed.batch(slice(5, 50, 7))[0])


def test_rows_of_a_table_are_streamed_as_they_are(tmp_path: Path) -> None:
    columns = mapped(tmp_path / "columns.npy", np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32))
    device, streamed = both(columns, np.linspace(-1, 1, 50, dtype=np.float32))
    for (inputs, targets), (same_inputs, same_targets) in zip(device.batches(16), streamed.batches(16), strict=True):
        assert torch.equal(inputs, same_inputs)
        assert torch.equal(targets, same_targets)


@pytest.mark.parametrize("training", [{}, AUGMENTED], ids=["plain", "augmented"])
def test_training_on_a_streamed_split_gives_the_same_numbers_to_the_bit(
    images: np.ndarray, labels: np.ndarray, job: MakeJob, fresh: Fresh, training: dict[str, Any]
) -> None:
    spec = job(NETWORK, dataset="cifar10", epochs=2, batch_size=64, **training)

    def trained(train: BatchedSplit, validation: BatchedSplit) -> tuple[list[Any], list[Tensor]]:
        state = fresh(spec)
        epochs = list(fit(state, spec.training, train, validation))
        curves = [(each.train_loss, each.train_accuracy, each.validation_loss) for each in epochs]
        final = evaluate(state, train)
        return [*curves, final.loss, final.predictions.tolist()], list(state.network.state_dict().values())

    parts = [both(images, labels, rows, **SCALE) for rows in (np.arange(150), np.arange(150, 210))]
    (expected, weights), (found, same_weights) = (trained(*splits) for splits in zip(*parts, strict=True))
    assert found == expected
    assert all(map(torch.equal, weights, same_weights))
    assert expected[0] != expected[1], "it did learn"


def test_a_job_whose_data_exceed_the_limit_has_the_result_of_one_whose_data_fit(
    job: MakeJob, result_of: Callable[..., Result], caplog: pytest.LogCaptureFixture
) -> None:
    spec = job({"name": "mlp", "hidden": [8]}, epochs=2)
    fits = result_of(spec, data_limit_bytes=2**30)
    assert "read batch by batch" not in caplog.text
    streamed = result_of(spec.model_copy(), data_limit_bytes=1_000)
    assert "read batch by batch" in caplog.text
    assert streamed.loss == fits.loss
    assert streamed.curves.model_dump(exclude={"seconds"}) == fits.curves.model_dump(exclude={"seconds"})
    assert streamed.confusion_matrix == fits.confusion_matrix
    assert reading_threads() == []


def test_leaving_early_ends_the_thread(images: np.ndarray, labels: np.ndarray, job: MakeJob, fresh: Fresh) -> None:
    _, streamed = both(images, labels, **SCALE)
    batches = streamed.batches(8)
    next(batches)
    assert len(reading_threads()) == 1
    del batches
    assert reading_threads() == []

    def stumble(part: object, rate: float) -> Tensor:
        raise RuntimeError("in the first step")

    spec = job(NETWORK, dataset="cifar10", batch_size=8)
    with pytest.raises(RuntimeError, match="in the first step"):
        train_one_epoch(fresh(spec), spec.training, streamed, epoch=1, step=stumble)
    assert reading_threads() == []


def test_only_a_few_batches_are_read_ahead(images: np.ndarray, labels: np.ndarray) -> None:
    _, streamed = both(images, labels, **SCALE)
    batches = streamed.batches(1)
    next(batches)
    (thread,) = reading_threads()
    thread.join(0.2)  # it would be through with 210 images
    assert thread.is_alive()
    assert sum(1 for _ in batches) == 209
    assert not thread.is_alive()


def cut_short(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def flip_a_bit_of_the_last_byte(file: Path) -> None:
    with file.open("r+b") as opened:
        opened.seek(-1, os.SEEK_END)
        (last,) = opened.read(1)
        opened.seek(-1, os.SEEK_END)
        opened.write(bytes([last ^ 1]))


def test_a_file_that_is_cut_short_after_it_was_mapped_is_named_before_it_is_read(
    images: np.ndarray, labels: np.ndarray, file: Path
) -> None:
    cut_short(file)
    with pytest.raises(DataCacheDamaged, match=f"{file} was cut short"):
        StreamedSplit(images, labels, device=CPU, **SCALE)


@pytest.mark.parametrize("harm", [cut_short, flip_a_bit_of_the_last_byte])
def test_a_file_that_is_changed_is_named_in_the_error(
    images: np.ndarray, labels: np.ndarray, file: Path, harm: Callable[[Path], None]
) -> None:
    _, streamed = both(images, labels, **SCALE)
    batches = streamed.batches(8)
    next(batches)
    harm(file)
    with pytest.raises(DataCacheDamaged) as raised:
        list(batches)
    assert str(raised.value) == f"{file} was changed while it was read."
    assert reading_threads() == []


def test_a_file_that_is_replaced_is_read_to_the_end(images: np.ndarray, labels: np.ndarray, file: Path) -> None:
    device, streamed = both(images, labels, **SCALE)
    file.unlink()
    file.write_bytes(b"another")
    assert all(torch.equal(a, b) for (a, _), (b, _) in zip(device.batches(64), streamed.batches(64), strict=True))


def test_a_file_that_has_vanished_before_the_start_is_named(images: np.ndarray, labels: np.ndarray, file: Path) -> None:
    file.unlink()
    with pytest.raises(DataCacheDamaged, match=f"{file} cannot be read any more: No such file or directory"):
        StreamedSplit(images, labels, device=CPU, **SCALE)
