"""A checkpoint that cannot be taken over is lost; one on a disk that fails just now is not."""

import errno
import os
import shutil
from pathlib import Path
from uuid import uuid4

import pytest

from models.errors import InitialCheckpointLost
from models.result import InitialWeights
from worker.warm_start import Choice, keep

FILE = "checkpoint-0001-000001.pt"
JOB = uuid4()


def look() -> Choice:
    return Choice(InitialWeights(job=JOB, which="last", epoch=1, sha256="0" * 64), FILE)


@pytest.mark.parametrize(
    ("number", "expected"),
    [(errno.EACCES, InitialCheckpointLost), (errno.ESTALE, OSError), (errno.EIO, OSError), (errno.ETIMEDOUT, OSError)],
)
def test_an_error_that_passes_ends_the_attempt_and_not_the_job(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, number: int, expected: type[Exception]
) -> None:
    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    for module, name in ((os, "link"), (shutil, "copyfile")):
        monkeypatch.setattr(module, name, fail)
    with pytest.raises(expected, match=os.strerror(number)):
        keep(look, tmp_path, tmp_path / "own")
    assert list((tmp_path / "own").iterdir()) == []
