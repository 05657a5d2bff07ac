"""A decoded data set as the rest of the worker sees it."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Split:
    """The samples of one split: uint8 images (N, C, H, W) and their int64 labels (N,)."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]


@dataclass(frozen=True)
class ImageData:
    """A data set, its images memory-mapped read-only; `checksum` is the SHA-256 of classes, images and labels."""

    name: str
    classes: tuple[str, ...]
    train: Split
    test: Split
    checksum: str
