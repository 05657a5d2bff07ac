"""From image files and raw pixels to one uint8 array per split; the only module that needs Pillow."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models.datasets import DATASETS, DatasetName
from models.errors import InvalidData
from worker.datasets.image_data import Split
from worker.datasets.source import RawSplit

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
_BATCH = 500  # images between two calls of `progress`
# For small images the interpreter lock makes two threads slower than one (1.7 times at 32x32, even at 64x64).
_THREADS_PAY_ABOVE = 64  # pixels a side


def decode(
    name: DatasetName,
    raw: tuple[RawSplit, RawSplit],
    resize: int | None,
    progress: Callable[[int, int], None] | None,
) -> tuple[Split, Split]:
    """Return the training and the test split as uint8 (N, C, H, W), each image resized to a square where asked.

    `progress` is called with (images done, images in all). Raises InvalidData naming the first bad file.
    """
    done, total = 0, sum(len(split.labels) for split in raw)
    decoded = []
    for split in raw:
        images = np.empty((len(split.labels), *DATASETS[name].input_shape(resize)), dtype=np.uint8)
        for count in _fill(images, split, name, resize):
            done += count
            if progress is not None:
                progress(done, total)
        decoded.append(Split(images, split.labels))
    return decoded[0], decoded[1]


def _fill(images: NDArray[np.uint8], split: RawSplit, name: DatasetName, resize: int | None) -> Iterator[int]:
    """Decode the samples of `split` into `images`, yielding the size of each batch when it is done."""

    def fill_batch(batch: range) -> int:
        for index in batch:
            images[index] = _pixels(split.samples[index], name, resize)
        return len(batch)

    batches = [range(start, min(start + _BATCH, len(images))) for start in range(0, len(images), _BATCH)]
    threads = os.cpu_count() if images.shape[-1] > _THREADS_PAY_ABOVE else 1
    with ThreadPoolExecutor(threads) as pool:
        yield from pool.map(fill_batch, batches)


def _pixels(sample: Path | NDArray[np.uint8], name: DatasetName, resize: int | None) -> NDArray[np.uint8]:
    """Return one image as uint8 (C, H, W)."""
    picture = _open_checked(sample, name, resize) if isinstance(sample, Path) else Image.fromarray(sample)
    if resize is not None:
        picture = picture.resize((resize, resize), Image.Resampling.BILINEAR)
    pixels: NDArray[np.uint8] = np.asarray(picture)
    return pixels[np.newaxis] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def _open_checked(path: Path, name: DatasetName, resize: int | None) -> Image.Image:
    """Return the decoded image of `path`, of the colours of the data set and, unless it is resized, of its size."""
    channels, height, width = DATASETS[name].shape
    mode = "RGB" if channels == 3 else "L"
    try:
        with Image.open(path, formats=FORMATS) as picture:
            picture.load()
    except Exception as error:  # Pillow raises whatever its parsing of a damaged file runs into
        raise InvalidData(f"{path} cannot be decoded as an image ({error}).") from error
    if picture.mode != mode:
        raise InvalidData(f"{path} has the colour mode {picture.mode}, {name} needs {mode}.")
    if resize is None and picture.size != (width, height):
        given = f"{picture.width}x{picture.height}"
        raise InvalidData(f"{path} has {given} pixels, {name} has {width}x{height}: mend it or use `resize`.")
    return picture
