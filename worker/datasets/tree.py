"""A data set placed as folders of images: train/<class>/* and test/<class>/*."""

from pathlib import Path

import numpy as np

from models.errors import InvalidData
from worker.datasets.source import RawSplit, SourceFile, fingerprint_of, list_files

SPLITS = ("train", "test")


class ImageTree:
    """Images in a folder per class: labels follow the order of `classes`, whatever the folders' order.

    A slash in a class is a "-" or a "_" in its folder's name.
    """

    def __init__(self, folder: Path, classes: tuple[str, ...]) -> None:
        """List all images, opening none; raises InvalidData where a class has none or a folder is not a class."""
        self._splits = {split: _list_classes(folder / split, classes) for split in SPLITS}

    @property
    def fingerprint(self) -> str:
        """A digest of the names, sizes and times of all images."""
        return fingerprint_of(
            (f"{split}/{folder.name}", files) for split in SPLITS for folder, files in self._splits[split]
        )

    def read(self) -> tuple[RawSplit, RawSplit]:
        """Return the splits, class by class and by file name within a class."""
        return self._read_split("train"), self._read_split("test")

    def _read_split(self, split: str) -> RawSplit:
        paths = [folder / file.name for folder, files in self._splits[split] for file in files]
        counts = [len(files) for _, files in self._splits[split]]
        return RawSplit(paths, np.repeat(np.arange(len(counts), dtype=np.int64), counts))


def _list_classes(folder: Path, classes: tuple[str, ...]) -> list[tuple[Path, list[SourceFile]]]:
    """Return (class folder, its files) in label order."""
    if not folder.is_dir():
        raise InvalidData(f"{folder} is missing: images are expected in train/<class>/ and in test/<class>/.")
    found = _find_class_folders(folder, classes)
    listed = []
    for name in classes:
        if name not in found:
            raise InvalidData(f"{folder / _folder_names(name)[0]} is missing: each class needs a folder of images.")
        files = list_files(found[name])
        if not files:
            raise InvalidData(f"{found[name]} holds no images: a label without images cannot be learned.")
        listed.append((found[name], files))
    return listed


def _find_class_folders(folder: Path, classes: tuple[str, ...]) -> dict[str, Path]:
    class_of = {folder_name: name for name in classes for folder_name in _folder_names(name)}
    found: dict[str, Path] = {}
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith("."):
            continue
        name = class_of.get(entry.name)
        if name is None or not entry.is_dir():
            raise InvalidData(f"{entry} is not the folder of a class; the classes are {', '.join(classes)}.")
        if name in found:
            raise InvalidData(f"{entry} and {found[name]} are both folders of the class {name}: keep one of them.")
        found[name] = entry
    return found


def _folder_names(name: str) -> tuple[str, str]:
    return name.replace("/", "-"), name.replace("/", "_")
