"""The way from a spec to its images: the cache where it is good, else find, decode and publish."""

from collections.abc import Callable
from pathlib import Path

from models.dataset_spec import ImagesDataset, NamedDataset
from models.errors import InvalidData
from worker.datasets.cache import Cache
from worker.datasets.digits import Digits
from worker.datasets.image_data import ImageData
from worker.datasets.source import Source
from worker.datasets.torchvision_files import TorchvisionFiles, download_files, not_placed, place_of, unpack_files
from worker.datasets.tree import SPLITS, ImageTree
from worker.full_disk import space_for

Progress = Callable[[int, int], None]
ImagesSpec = NamedDataset | ImagesDataset


def load_images(spec: ImagesSpec, *, root: Path, download: bool = True, progress: Progress | None = None) -> ImageData:
    """Return the images that `spec` asks for, read from below `root` and cached in `root`/.cache, which it writes.

    Where no files of a named data set were placed, torchvision downloads them if `download` allows it. While images
    are decoded, `progress` is called with (images done, images in all). Raises InvalidData, with one sentence that
    names the file or folder, where the data set cannot be used, and DiskFull.
    """
    folder = root / spec.name if isinstance(spec, NamedDataset) else root / "images" / spec.folder
    cache = Cache.of(spec, root / ".cache")
    try:
        source = _find_source(spec, folder)
        if source is not None and (cached := cache.open(source.fingerprint)) is not None:
            return cached
        with space_for(f"the data set {cache.name}", root), cache.locked():
            source = _find_source(spec, folder, unpack=True) or _download(spec, folder, allowed=download)
            # Another process may have published it while this one waited for the lock.
            return cache.open(source.fingerprint) or _build(cache, source, spec, folder, progress)
    except OSError as error:
        raise InvalidData(
            f"The data set directory {root} cannot be used: {error.filename or root}: {error.strerror or error}."
        ) from error


def _find_source(spec: ImagesSpec, folder: Path, *, unpack: bool = False) -> Source | None:
    """Return the source of the images, or None where nobody has placed any files of a named data set in `folder`.

    `unpack` needs the cache's lock: files that were placed as they are published are unpacked first.
    """
    if isinstance(spec, ImagesDataset):
        return _find_own_images(spec, folder)
    if spec.name == "digits":
        return Digits()
    trees = [folder / split for split in SPLITS if (folder / split).exists()]
    if unpack and not trees:
        unpack_files(spec.name, folder)
    place = place_of(spec.name, folder)
    if trees and place.exists():
        raise InvalidData(f"{place} and {trees[0]} hold {spec.name} in two forms: keep one of them.")
    if trees:
        return ImageTree(folder, spec.class_names)
    return TorchvisionFiles(spec.name, folder) if place.exists() else None


def _find_own_images(spec: ImagesDataset, folder: Path) -> Source:
    if not (folder / "test").exists():
        return ImageTree(folder, spec.class_names, ("train",))
    if spec.test_split is not None:
        raise InvalidData(f"{folder / 'test'} holds test images: remove `test_split` from the spec, or that folder.")
    return ImageTree(folder, spec.class_names)


def _download(spec: ImagesSpec, folder: Path, *, allowed: bool) -> Source:
    assert isinstance(spec, NamedDataset), "images of one's own are found or refused"
    if not allowed:
        raise not_placed(spec.name, folder, "downloads are turned off")
    download_files(spec.name, folder)
    return TorchvisionFiles(spec.name, folder)


def _build(cache: Cache, source: Source, spec: ImagesSpec, folder: Path, progress: Progress | None) -> ImageData:
    from worker.datasets.decoding import decode  # Pillow is not needed, so not imported, where the cache is good

    train, test = decode(spec, source.read(), progress)
    unchanged = _find_source(spec, folder)
    if unchanged is None or unchanged.fingerprint != source.fingerprint:
        raise InvalidData(f"{folder} was changed while it was read: start the job again when all files are in place.")
    cache.publish(source.fingerprint, train, test)
    published = cache.open(source.fingerprint)
    if published is None:
        raise InvalidData(f"The data set cache for {folder} could not be read back after it was written.")
    return published
