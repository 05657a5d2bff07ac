"""Unpacks an archive that was placed as its publishers offer it, so that a kill leaves nothing half there."""

import gzip
import hashlib
import shutil
import tarfile
from pathlib import Path

from models.errors import InvalidData


def unpack(archive: Path, md5: str, target: Path) -> None:
    """Unpack `archive`: a tar whose only folder becomes `target`, or the one gzipped file `target`.

    Raises InvalidData for an archive that has not the MD5 that its publishers, or torchvision for them, list.
    """
    with archive.open("rb") as file:
        if hashlib.file_digest(file, "md5").hexdigest() != md5:
            raise InvalidData(f"{archive} is truncated or changed: its MD5 is not the published one ({md5}).")
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.parent / f".unpacking-{target.name}"
    shutil.rmtree(aside, ignore_errors=True)  # of a job that was killed
    aside.mkdir()
    try:
        if archive.name.endswith(".tar.gz"):
            with tarfile.open(archive) as tar:
                tar.extractall(aside, filter="data")
        else:
            with gzip.open(archive) as packed, (aside / target.name).open("wb") as unpacked:
                shutil.copyfileobj(packed, unpacked)
        (aside / target.name).rename(target)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
