"""From image files and raw pixels to one uint8 array per split; the only module that needs Pillow."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps

from models.dataset_spec import ImagesDataset, NamedDataset
from models.errors import InvalidData
from worker.datasets.source import Decoded, RawSplit

_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
_BATCH = 500  # images between two calls of `progress`
# For small images the interpreter lock makes two threads slower than one (1.5 times at 32x32, even at 64x64).
_THREADS_PAY_ABOVE_PIXELS = 64  # a side, when decoded
_THREADS_PAY_ABOVE_BYTES = 4_000  # of a file: 1.2 times as fast at 4 kB, 1.7 at 12 kB
# Pillow opens some files of 16 bits per pixel as 32, and converts none of these modes without clipping.
_WIDE_MODES = ("I", "I;16", "I;16B", "I;16L", "I;16N", "F")
Picture = Callable[[Path], Image.Image]


def decode(
    spec: NamedDataset | ImagesDataset,
    raw: tuple[RawSplit, RawSplit],
    progress: Callable[[int, int], None] | None,
) -> tuple[Decoded, Decoded]:
    """Return the training and the test split as uint8 (N, C, H, W), each image resized to a square where asked.

    Images of a named data set must have its colours and size (unless resized); those of one's own are converted.
    `progress` is called with (images done, images in all). Raises InvalidData naming the first bad file.
    """
    picture = partial(_require_form, spec) if isinstance(spec, NamedDataset) else partial(_convert, spec)
    done, total = 0, sum(len(split.labels) for split in raw)
    decoded = []
    for split in raw:
        images = np.empty((len(split.labels), *spec.input_shape), dtype=np.uint8)
        for count in _fill(images, split, picture, spec.resize):
            done += count
            if progress is not None:
                progress(done, total)
        decoded.append(Decoded(images, split.labels))
    return decoded[0], decoded[1]


def _fill(images: NDArray[np.uint8], split: RawSplit, picture: Picture, resize: int | None) -> Iterator[int]:
    """Decode the samples of `split` into `images`, yielding the size of each batch when it is done."""

    def fill_batch(batch: range) -> int:
        for index in batch:
            images[index] = _pixels(split.samples[index], picture, resize)
        return len(batch)

    batches = [range(start, min(start + _BATCH, len(images))) for start in range(0, len(images), _BATCH)]
    threads = torch.get_num_threads() if _threads_pay(split, images.shape[-1]) else 1  # its share of the host
    with ThreadPoolExecutor(threads) as pool:
        yield from pool.map(fill_batch, batches)


def _threads_pay(split: RawSplit, side: int) -> bool:
    first = split.samples[0] if len(split.labels) else None
    return side > _THREADS_PAY_ABOVE_PIXELS or (
        isinstance(first, Path) and first.stat().st_size > _THREADS_PAY_ABOVE_BYTES
    )


def _pixels(sample: Path | NDArray[np.uint8], picture: Picture, resize: int | None) -> NDArray[np.uint8]:
    """Return one image as uint8 (C, H, W)."""
    image = picture(sample) if isinstance(sample, Path) else Image.fromarray(sample)
    if resize is not None:
        image = image.resize((resize, resize), Image.Resampling.BILINEAR)
    pixels: NDArray[np.uint8] = np.asarray(image)
    return pixels[np.newaxis] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def _open(path: Path) -> Image.Image:
    try:
        with Image.open(path, formats=_FORMATS) as picture:
            picture.load()
    except Exception as error:  # Pillow raises whatever its parsing of a damaged file runs into
        raise InvalidData(f"{path} cannot be decoded as an image ({error}).") from error
    return picture


def _require_form(spec: NamedDataset, path: Path) -> Image.Image:
    """Return the picture of `path`, of the colours of the data set and, unless it is resized, of its size."""
    channels, height, width = spec.facts.shape
    mode = "RGB" if channels == 3 else "L"
    picture = _open(path)
    if picture.mode != mode:
        raise InvalidData(f"{path} has the colour mode {picture.mode}, {spec.name} needs {mode}.")
    if spec.resize is None and picture.size != (width, height):
        given = f"{picture.width}x{picture.height}"
        raise InvalidData(f"{path} has {given} pixels, {spec.name} has {width}x{height}: mend it or use `resize`.")
    return picture


def _convert(spec: ImagesDataset, path: Path) -> Image.Image:
    """Return the picture of `path` the way up that its EXIF says, in the colours that the spec asks for.

    As in torchvision's ImageFolder, transparency is dropped, and of several frames the first is taken.
    """
    picture = _open(path)
    try:
        ImageOps.exif_transpose(picture, in_place=True)
        if picture.mode in _WIDE_MODES:
            picture = _in_eight_bits(picture)
        elif picture.mode in ("P", "PA"):
            picture = picture.convert("RGBA")  # else Pillow warns of palettes with transparent entries
        return picture.convert("RGB" if spec.colors == "rgb" else "L")
    except Exception as error:  # from EXIF that is damaged, and from colours that Pillow does not convert
        raise InvalidData(f"{path} cannot be converted to {spec.colors} ({error}).") from error


def _in_eight_bits(picture: Image.Image) -> Image.Image:
    """Scale 0..65535 to 0..255."""
    pixels = np.asarray(picture)
    if picture.mode == "F" or pixels.min() < 0 or pixels.max() > 65_535:
        raise ValueError("the range of its brightness is not known")
    return Image.fromarray(((pixels.astype(np.int64) * 255 + 32_767) // 65_535).astype(np.uint8))
