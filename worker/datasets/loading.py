"""The way from a data set's name to its arrays: the cache where it is good, else find, decode and publish."""

from collections.abc import Callable
from pathlib import Path

from models.datasets import DATASETS, DatasetName
from models.errors import InvalidData
from worker.datasets.cache import Cache
from worker.datasets.digits import Digits
from worker.datasets.image_data import ImageData
from worker.datasets.source import Source
from worker.datasets.torchvision_files import FOLDERS, TorchvisionFiles, not_placed
from worker.datasets.torchvision_files import download as download_files
from worker.datasets.tree import SPLITS, ImageTree

Progress = Callable[[int, int], None]


def load(
    name: DatasetName, *, resize: int | None, root: Path, download: bool = True, progress: Progress | None = None
) -> ImageData:
    """Return the data set `name`, read from `root`/`name` and cached in `root`/.cache; `root` has to be writable.

    `resize` is a side length in pixels, applied once while decoding. Where no files were placed, torchvision downloads
    them if `download` allows it. While images are decoded, `progress` is called with (images done, images in all).
    Raises InvalidData, with one sentence that names the file or folder, where the data set cannot be used.
    """
    folder = root / name
    cache = Cache(root / ".cache", name, resize)
    try:
        source = _find_source(name, folder)
        if source is not None and (cached := cache.open(source.fingerprint)) is not None:
            return cached
        with cache.locked():
            source = _find_source(name, folder) or _download(name, folder, allowed=download)
            # Another process may have published it while this one waited for the lock.
            return cache.open(source.fingerprint) or _build(cache, source, name, folder, resize, progress)
    except OSError as error:
        raise InvalidData(
            f"The data set directory {root} cannot be used: {error.filename or root}: {error.strerror or error}."
        ) from error


def _find_source(name: DatasetName, folder: Path) -> Source | None:
    """Return the source of `name`, or None where nobody has placed any files in `folder`."""
    if name == "digits":
        return Digits()
    torchvision_folder = folder / FOLDERS[name].parts[0]
    trees = [folder / split for split in SPLITS if (folder / split).exists()]
    if trees and torchvision_folder.exists():
        raise InvalidData(f"{torchvision_folder} and {trees[0]} hold {name} in two forms: keep one of them.")
    if trees:
        return ImageTree(folder, DATASETS[name].classes)
    return TorchvisionFiles(name, folder) if torchvision_folder.exists() else None


def _download(name: DatasetName, folder: Path, *, allowed: bool) -> Source:
    if not allowed:
        raise not_placed(name, folder, "downloads are turned off")
    download_files(name, folder)
    return TorchvisionFiles(name, folder)


def _build(
    cache: Cache, source: Source, name: DatasetName, folder: Path, resize: int | None, progress: Progress | None
) -> ImageData:
    from worker.datasets.decoding import decode  # Pillow is not needed, so not imported, where the cache is good

    train, test = decode(name, source.read(), resize, progress)
    unchanged = _find_source(name, folder)
    if unchanged is None or unchanged.fingerprint != source.fingerprint:
        raise InvalidData(f"{folder} was changed while it was read: start the job again when all files are in place.")
    cache.publish(source.fingerprint, train, test)
    published = cache.open(source.fingerprint)
    if published is None:
        raise InvalidData(f"The data set cache for {folder} could not be read back after it was written.")
    return published
