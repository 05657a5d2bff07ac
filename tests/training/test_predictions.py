"""What a runner reports of each test sample, and by what the samples of two jobs are known to be the same."""

import multiprocessing
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from harness.training import MakeSplit
from models.dataset_spec import ImagesDataset, NamedDataset, TableDataset
from models.spec import JobSpec
from worker import report_predictions as module
from worker.datasets import PreparedData, prepare
from worker.messages import EVENT, Predicted, Succeeded
from worker.report_predictions import report_predictions
from worker.training.loop import Evaluation, evaluate
from worker.training.state import TrainState

ROWS = 60


@pytest.fixture
def flowers(tmp_path: Path) -> Path:
    """A table of two columns, a class and a number that follow from them."""
    (tmp_path / "tables").mkdir()
    path = tmp_path / "tables" / "flowers.csv"
    lines = [f"{number},{number % 7},{'ab'[number % 2]},{1000 + number}" for number in range(ROWS)]
    path.write_text("\n".join(["length,width,kind,price", *lines]))
    return path


def table(**changes: Any) -> TableDataset:
    fields = {"file": "flowers.csv", "target": "kind", "classes": ["a", "b"], "features": ["length", "width"]}
    return TableDataset.model_validate(fields | changes)


def digest(data: PreparedData) -> str:
    return data.test_samples.digest


def test_probabilities_are_the_softmax_of_the_predicted_class(
    job: Callable[..., JobSpec], fresh: Callable[[JobSpec], TrainState], pictures: MakeSplit
) -> None:
    state, split = fresh(job({"name": "mlp", "hidden": [8]})), pictures(300)
    measured = evaluate(state, split, probabilities=True)
    with torch.no_grad():
        inputs, _ = split.batch(slice(None))
        expected = state.forward(inputs).softmax(1)
    assert measured.probabilities is not None
    torch.testing.assert_close(measured.probabilities, expected.max(1).values)
    assert torch.equal(measured.predictions, expected.argmax(1))
    assert evaluate(state, split).probabilities is None, "nobody asked for them"


def test_a_regression_has_no_probabilities(
    job: Callable[..., JobSpec], fresh: Callable[[JobSpec], TrainState], rows: MakeSplit
) -> None:
    dataset = {"name": "table", "file": "t.csv", "target": "y", "features": ["a", "b", "c", "d"]}
    state = fresh(job({"name": "mlp", "hidden": [8]}, dataset=dataset))
    assert evaluate(state, rows(50), probabilities=True).probabilities is None


def test_a_tables_samples_are_known_by_file_and_row(flowers: Path) -> None:
    root = flowers.parents[1]
    both = prepare(table(), seed=1, root=root)
    assert both.test_samples.rows is not None
    assert both.test_samples.rows.tolist() == sorted(both.test_samples.rows.tolist())
    assert len(both.test_samples.rows) == ROWS // 5
    assert digest(both) == digest(prepare(table(features=["length"]), seed=2, root=root)), "whatever the columns"
    assert digest(both) != digest(prepare(table(split_seed=1), seed=1, root=root))
    assert digest(both) != digest(prepare(table(classes=["b", "a"]), seed=1, root=root)), "other labels"
    flowers.write_text(flowers.read_text().replace("1007", "1008"))
    assert digest(both) != digest(prepare(table(), seed=1, root=root)), "another file"


def test_numbers_are_told_on_the_targets_own_scale(flowers: Path) -> None:
    data = prepare(table(target="price", classes=None), seed=1, root=flowers.parents[1])
    targets = torch.from_numpy(data.test.targets)
    told = report_predictions(Evaluation(0.0, None, targets + 1, targets), data)
    assert told is not None
    assert data.test_samples.rows is not None
    assert data.target_scale is not None
    assert told.indices == data.test_samples.rows.tolist()
    assert told.targets == pytest.approx([1000 + row for row in data.test_samples.rows])
    assert told.estimates == pytest.approx([1000 + row + data.target_scale.scale for row in data.test_samples.rows])
    assert (told.labels, told.predictions, told.probabilities) == (None, None, None)


def test_images_held_out_are_known_by_their_place_and_their_pixels(tmp_path: Path) -> None:
    for place in range(20):
        folder = tmp_path / "images" / "shades" / "train" / "ab"[place % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), 10 * place).save(folder / f"{place:02}.png")

    def load(**changes: Any) -> PreparedData:
        fields = {"folder": "shades", "classes": ["a", "b"], "resize": 8, "colors": "gray"}
        return prepare(ImagesDataset.model_validate(fields | changes), seed=1, root=tmp_path)

    data = load()
    assert data.test_samples.rows is not None
    shades = data.test.inputs[:, 0, 0, 0].tolist()
    in_order = [10 * place for label in (0, 1) for place in range(label, 20, 2)]
    assert shades == [in_order[row] for row in data.test_samples.rows]
    assert digest(data) == digest(load(validation=0.3))
    assert digest(data) != digest(load(resize=16))
    assert digest(data) != digest(load(split_seed=5))


def test_a_test_split_of_its_own_is_numbered_from_0(digits_cache: Path) -> None:
    data = prepare(NamedDataset(name="digits"), seed=1, root=digits_cache)
    assert data.test_samples.rows is None
    assert digest(data) == digest(prepare(NamedDataset(name="digits", validation="test"), seed=9, root=digits_cache))


def test_a_hundred_thousand_predictions_come_through_the_pipe_whole() -> None:
    noise = np.random.default_rng(1)
    count = 100_000
    said = Succeeded(
        result={},
        predictions=Predicted(
            samples_digest="0" * 64,
            indices=list(range(count)),
            labels=noise.integers(0, 1000, count).tolist(),
            predictions=noise.integers(0, 1000, count).tolist(),
            probabilities=noise.random(count).tolist(),
        ),
    )
    reader, writer = multiprocessing.Pipe(duplex=False)
    with reader, writer:
        sender = threading.Thread(target=writer.send_bytes, args=(said.model_dump_json().encode(),))
        sender.start()
        heard = EVENT.validate_json(reader.recv_bytes())
        sender.join()
    assert heard == said


def test_of_a_huge_test_split_no_predictions_are_kept(monkeypatch: pytest.MonkeyPatch, flowers: Path) -> None:
    data = prepare(table(), seed=1, root=flowers.parents[1])
    labels = torch.from_numpy(data.test.targets)
    measured = Evaluation(0.0, 1.0, labels, labels, torch.ones(len(labels)))
    monkeypatch.setattr(module, "MAX_SAMPLES", len(labels) - 1)
    assert report_predictions(measured, data) is None
    monkeypatch.setattr(module, "MAX_SAMPLES", len(labels))
    assert report_predictions(measured, data) is not None
