"""The training images of every loop: CIFAR-10 from its tree of JPEG files, or random pixels of that shape."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.rows import SEED
from models.dataset_spec import NamedDataset
from worker.datasets import prepare

_CIFAR10 = NamedDataset(name="cifar10", validation="test")
_SHAPE = (3, 32, 32)
_TREE = ("train", "test")

MEAN, STD = _CIFAR10.facts.mean, _CIFAR10.facts.std
CLASSES = len(_CIFAR10.class_names)


@dataclass(frozen=True)
class Images:
    """uint8 images (N, C, H, W) and int64 labels (N,), decoded and shuffled once, in a folder for all processes."""

    folder: Path
    samples: int
    from_cifar10: bool

    @property
    def datasets(self) -> Path:
        """The data set directory for a service, which holds CIFAR-10 where it was at hand."""
        return self.folder / "datasets"

    def load(self, samples: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Return the first `samples`, mapped from the disk; any number of them is a mixture of all classes."""
        images, labels = (np.load(self.folder / f"{part}.npy", mmap_mode="r") for part in ("images", "labels"))
        return images[:samples], np.array(labels[:samples])


def place_images(folder: Path, cifar10: Path | None, samples: int) -> Images:
    """Decode the tree `cifar10` (with train/<class>/* and test/<class>/*) into `folder`, or draw `samples` images.

    Raises InvalidData where the tree is none.
    """
    images = Images(folder, samples, from_cifar10=cifar10 is not None)
    images.datasets.mkdir()
    if cifar10 is None:
        draw = np.random.default_rng(SEED)
        _save(images, draw.integers(0, 256, (samples, *_SHAPE), np.uint8), draw.integers(0, CLASSES, samples))
        return images
    (images.datasets / "cifar10").mkdir()
    for split in _TREE:
        (images.datasets / "cifar10" / split).symlink_to((cifar10 / split).resolve())
    train = prepare(_CIFAR10, seed=SEED, root=images.datasets, download=False).train
    order = np.random.default_rng(SEED).permutation(len(train.targets))[:samples]
    _save(images, train.inputs[order], train.targets[order])
    return images


def _save(images: Images, pixels: NDArray[np.generic], labels: NDArray[np.generic]) -> None:
    np.save(images.folder / "images.npy", pixels)
    np.save(images.folder / "labels.npy", labels)
