"""Labels follow the order of the classes that is published, not that of the folders' names."""

from pathlib import Path

import numpy as np
from PIL import Image

from models.dataset_spec import NamedDataset
from models.datasets import DATASETS
from worker.datasets.loading import load_images


def test_labels_of_a_tree_follow_the_published_order_of_classes(tmp_path: Path) -> None:
    classes = DATASETS["fashion_mnist"].classes
    assert list(classes) != sorted(classes)
    for label, name in enumerate(classes):
        for split in ("train", "test"):
            folder = tmp_path / "fashion_mnist" / split / name.replace("/", "-")
            folder.mkdir(parents=True)
            Image.fromarray(np.full((28, 28), 10 * label, dtype=np.uint8)).save(folder / "picture.png")
    data = load_images(NamedDataset(name="fashion_mnist"), root=tmp_path)
    for part in (data.train, data.test):
        assert [int(image.mean()) for image in part.images] == [10 * int(label) for label in part.labels]
        assert sorted(part.labels) == list(range(10))
