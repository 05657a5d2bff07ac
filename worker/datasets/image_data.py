"""A decoded set of images, before anything is held out of it."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from worker.datasets.hashing import Digests


@dataclass(frozen=True)
class Samples:
    """uint8 images (N, C, H, W), their int64 labels (N,) and the digests of their pixels (N,)."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    digests: Digests


@dataclass(frozen=True)
class ImageData:
    """All images of a data set, memory-mapped read-only; `test` is empty where nobody has set test images apart.

    `checksum` is the SHA-256 of classes, images and labels.
    """

    train: Samples
    test: Samples
    checksum: str
