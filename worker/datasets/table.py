"""A CSV file as numbers, read block by block: every cell is checked, every problem named by file, line and column."""

import csv
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TextIO

import numpy as np
from numpy.typing import NDArray

from models.dataset_spec import TableDataset
from models.errors import InvalidData
from worker.datasets.columns import BadCell, encode, labels, numbers, shown
from worker.datasets.hashing import Digests, array_digest, sample_digests
from worker.datasets.source import listed

Column = NDArray[np.float64]
# Cells take ten times the memory as texts that they take as numbers; blocks that stay in the processor's cache are
# read 1.5 times as fast as those of 10,000 rows.
_BLOCK_ROWS = 1_000


@dataclass(frozen=True)
class Table:
    """All rows as the spec names them: the features of each column, float64 (N, 1) or (N, categories), by its name.

    `targets` are float64 (N,), labels as well; `digests` those of features and target of each row, (N,); `checksum` is
    the SHA-256 of columns and values, `file_sha256` that of the file, whichever of its columns are used.
    """

    features: dict[str, Column]
    targets: Column
    digests: Digests
    checksum: str
    file_sha256: str


class _Block(NamedTuple):
    """Some rows: the line that each begins on, and the cells of every column."""

    lines: list[int]
    columns: list[tuple[str, ...]]


def read_table(spec: TableDataset, path: Path) -> Table:
    """Read the columns that `spec` names from the CSV file at `path`: UTF-8, commas or semicolons, names first.

    Nothing is cached: parsing takes about as long as a cache's checksums would. Raises InvalidData, with one sentence
    that names the file, the line and the column, where anything cannot be taken for what the spec says it is.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            before = os.fstat(file.fileno())
            features, targets = _read(spec, path, file)
            content = _sha256(path)
            after = path.stat()
    except OSError as error:
        raise InvalidData(f"The table {path} cannot be read: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise InvalidData(f"{path}, line {_undecodable_line(path)}: this is not text in UTF-8.") from error
    if (before.st_ino, before.st_size, before.st_mtime_ns) != (after.st_ino, after.st_size, after.st_mtime_ns):
        raise InvalidData(f"{path} was changed while it was read: start the job again when it is in place.")
    _require_every_class(spec, path, targets)
    digests = sample_digests(np.column_stack([*features.values(), targets]))
    return Table(features, targets, digests, _checksum(spec, features, targets), content)


def _read(spec: TableDataset, path: Path, file: TextIO) -> tuple[dict[str, Column], Column]:
    header, blocks = _open(path, file, [*(feature.column for feature in spec.features), spec.target])
    places = {name: place for place, name in enumerate(header)}
    targets: list[Column] = []
    features: dict[str, list[Column]] = {feature.column: [] for feature in spec.features}
    for block in blocks:
        column = spec.target
        try:
            cells = block.columns[places[column]]
            known = labels(cells, spec.classes, "classes") if spec.classes else numbers(cells)
            targets.append(known.astype(np.float64))
            for feature in spec.features:
                column = feature.column
                features[column].append(encode(feature, block.columns[places[column]]))
        except BadCell as error:
            raise InvalidData(f"{path}, line {block.lines[error.index]}, column {column}: {error}.") from error
    if not targets:
        raise InvalidData(f"{path} has no rows below the names of its columns.")
    return {column: np.concatenate(blocks) for column, blocks in features.items()}, np.concatenate(targets)


def _open(path: Path, file: TextIO, needed: Sequence[str]) -> tuple[list[str], Iterator[_Block]]:
    """Return the names of the columns, `needed` among them and each of those once, and the rows."""
    rows = _rows(path, file, _delimiter(file, needed))
    _, row = next(rows, (1, None))
    if row is None:
        raise InvalidData(f"{path} is empty.")
    header = [name.strip() for name in row]
    for name in needed:
        if name not in header:
            raise InvalidData(f"{path} has no column {name}; its columns are {listed([shown(n) for n in header])}.")
        if header.count(name) > 1:
            raise InvalidData(f"{path} has {header.count(name)} columns of the name {name}.")
    return header, _blocks(path, rows, len(header))


def _delimiter(file: TextIO, needed: Sequence[str]) -> str:
    """Return the semicolon where it parts the first line into all columns that are needed and the comma does not."""
    first = file.readline()
    file.seek(0)

    def parts(delimiter: str) -> bool:
        try:
            return set(needed) <= {name.strip() for name in next(csv.reader([first], delimiter=delimiter), [])}
        except csv.Error:
            return False

    return ";" if parts(";") and not parts(",") else ","


def _rows(path: Path, file: TextIO, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Yield each row that is not blank and the line that it begins on."""
    reader = csv.reader(file, delimiter=delimiter, strict=True)
    line = 1
    try:
        for row in reader:
            if row:
                yield line, row
            line = reader.line_num + 1
    except csv.Error as error:
        raise InvalidData(f"{path}, line {line}: this is not CSV ({error}).") from error


def _blocks(path: Path, rows: Iterator[tuple[int, list[str]]], width: int) -> Iterator[_Block]:
    lines: list[int] = []
    block: list[list[str]] = []
    for line, row in rows:
        if len(row) != width:
            raise InvalidData(f"{path}, line {line}: the row has {len(row)} cells, the file has {width} columns.")
        lines.append(line)
        block.append(row)
        if len(block) == _BLOCK_ROWS:
            yield _Block(lines, list(zip(*block, strict=True)))
            lines, block = [], []
    if block:
        yield _Block(lines, list(zip(*block, strict=True)))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _undecodable_line(path: Path) -> int:
    with path.open("rb") as file:
        for line, content in enumerate(file, 1):
            try:
                content.decode()
            except UnicodeDecodeError:
                return line
    return 1


def _require_every_class(spec: TableDataset, path: Path, targets: Column) -> None:
    if spec.classes is None:
        return
    counts = np.bincount(targets.astype(np.int64), minlength=len(spec.classes))
    if not counts.all():
        missing = spec.classes[int(np.argmin(counts))]
        raise InvalidData(f"{path}, column {spec.target}: no row has the class {missing}, so it cannot be learned.")


def _checksum(spec: TableDataset, features: dict[str, Column], targets: Column) -> str:
    columns = [spec.target, spec.classes, [feature.model_dump() for feature in spec.features]]
    values = [array_digest(array) for array in (*features.values(), targets)]
    return hashlib.sha256(json.dumps([columns, values]).encode()).hexdigest()
