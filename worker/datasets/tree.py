"""A data set placed as folders of images: train/<class>/*, and test/<class>/* where there is one."""

from pathlib import Path

import numpy as np

from models.errors import InvalidData
from worker.datasets.source import RawSplit, SourceFile, fingerprint_of, list_files, listed

SPLITS = ("train", "test")


class ImageTree:
    """Images in a folder per class: labels follow the order of `classes`, whatever the folders' order.

    A slash in a class is a "-" or a "_" in its folder's name.
    """

    def __init__(self, folder: Path, classes: tuple[str, ...], splits: tuple[str, ...] = SPLITS) -> None:
        """List all images of `splits`, opening none.

        Raises InvalidData where a split or a class is missing, a class has no images or a folder is not of a class.
        """
        self._splits = {split: _list_classes(folder / split, classes, splits) for split in splits}

    @property
    def fingerprint(self) -> str:
        """A digest of the names, sizes and times of all images."""
        return fingerprint_of(
            (f"{split}/{folder.name}", files) for split, folders in self._splits.items() for folder, files in folders
        )

    def read(self) -> tuple[RawSplit, RawSplit]:
        """Return the splits, class by class and by file name within a class; one that is not there is empty."""
        return self._read_split("train"), self._read_split("test")

    def _read_split(self, split: str) -> RawSplit:
        folders = self._splits.get(split, [])
        paths = [folder / file.name for folder, files in folders for file in files]
        counts = [len(files) for _, files in folders]
        return RawSplit(paths, np.repeat(np.arange(len(counts), dtype=np.int64), counts))


def _list_classes(
    folder: Path, classes: tuple[str, ...], splits: tuple[str, ...]
) -> list[tuple[Path, list[SourceFile]]]:
    """Return (class folder, its files) in label order."""
    if not folder.is_dir():
        expected = " and in ".join(f"{split}/<class>/" for split in splits)
        raise InvalidData(f"{folder} is missing: images are expected in {expected}.")
    found = _find_class_folders(folder, classes)
    folders = []
    for name in classes:
        if name not in found:
            raise InvalidData(f"{folder / _folder_names(name)[0]} is missing: each class needs a folder of images.")
        files = list_files(found[name])
        if not files:
            raise InvalidData(f"{found[name]} holds no images: a label without images cannot be learned.")
        folders.append((found[name], files))
    return folders


def _find_class_folders(folder: Path, classes: tuple[str, ...]) -> dict[str, Path]:
    class_of: dict[str, str] = {}
    for name in classes:
        for folder_name in _folder_names(name):
            if (other := class_of.setdefault(folder_name, name)) != name:
                raise InvalidData(f"The classes {other} and {name} would share {folder / folder_name}: rename one.")
    found: dict[str, Path] = {}
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith("."):
            continue
        if entry.name not in class_of or not entry.is_dir():
            raise InvalidData(f"{entry} is not the folder of a class; the classes are {listed(classes)}.")
        name = class_of[entry.name]
        if name in found:
            raise InvalidData(f"{entry} and {found[name]} are both folders of the class {name}: keep one of them.")
        found[name] = entry
    return found


def _folder_names(name: str) -> tuple[str, str]:
    return name.replace("/", "-"), name.replace("/", "_")
