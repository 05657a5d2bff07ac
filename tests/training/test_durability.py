"""A checkpoint survives a power cut: its bytes are on disk before its name is, and the name before the event."""

import os
import stat
from pathlib import Path

import pytest

from worker import checkpoints


def test_the_file_is_flushed_before_it_is_renamed_and_its_directory_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    fsync, rename = os.fsync, Path.rename

    def watched_fsync(descriptor: int) -> None:
        order.append("directory" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        fsync(descriptor)

    def watched_rename(path: Path, target: Path) -> Path:
        order.append("rename")
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(Path, "rename", watched_rename)
    checkpoints.save(tmp_path, {}, attempt=1, epoch=1)
    assert order == ["file", "rename", "directory"]
