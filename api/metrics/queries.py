"""How curves are read: where a job stands, in one look-up, and its epochs as text that Postgres has written."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from uuid import UUID

from api.statements import Connection
from models.errors import JobNotFound
from models.job import FINAL, Status
from models.records import Epoch
from models.scores import METRICS

REPLICAS = "replicas"
NAMES = (*METRICS, REPLICAS)  # what may be asked for, in the order in which it is shown

_STANDING = "jobs.user_id, jobs.status, jobs.attempt, coalesce(scores.revision, 0), scores.last_epoch"
_OF_JOB = "FROM jobs LEFT JOIN scores ON scores.job_id = jobs.id WHERE jobs.id = %(job)s AND deleted_at IS NULL"
_AFTER = "epochs.job_id = %(job)s AND epoch > %(after)s"
_ONLY = "epochs.job_id = %(job)s AND epoch = ANY(%(only)s)"


@dataclass(frozen=True)
class Standing:
    """What the answer to any question about a job's curves depends on."""

    job_id: UUID
    owner: UUID
    status: Status
    attempt: int
    revision: int  # of the curves
    last_epoch: int | None

    @property
    def terminal(self) -> bool:
        """Whether the job has ended: nothing changes unless it is tried again."""
        return self.status in FINAL

    @property
    def settled(self) -> bool:
        """Whether nothing will ever change."""
        return self.status is Status.SUCCEEDED

    def has_epochs_after(self, epoch: int) -> bool:
        """Whether an epoch later than this one is recorded."""
        return self.last_epoch is not None and self.last_epoch > epoch

    def next(self, after: int) -> int:
        """Return the `after` of the request that follows one with this `after`."""
        return after if self.last_epoch is None else max(self.last_epoch, after)


async def standing(connection: Connection, job_id: UUID) -> Standing:
    """Return where a job stands; raise JobNotFound."""
    return (await _read(connection, f"SELECT {_STANDING} {_OF_JOB}".encode(), job_id))[0]


async def curves(
    connection: Connection, job_id: UUID, after: int, names: tuple[str, ...], only: Sequence[int] | None = None
) -> tuple[Standing, str]:
    """Return where a job stands, and of each epoch after `after` a line of JSON, both of one moment.

    Where `only` some epochs are wanted, the others are left out. Raises JobNotFound.
    """
    query = _curves_query(names, _AFTER if only is None else _ONLY)
    wanted = {"after": after} if only is None else {"only": list(only)}
    found, (lines,) = await _read(connection, query, job_id, **wanted)
    return found, lines or ""


async def columns(
    connection: Connection, job_id: UUID, after: int, names: Sequence[str]
) -> tuple[list[int], list[list[float | None]]]:
    """Return the epochs after `after`, and the values of each metric in them."""
    listed = ", ".join(f"array_agg({name} ORDER BY epoch)" for name in ("epoch", *names))
    query = f"SELECT {listed} FROM epochs WHERE {_AFTER}"  # noqa: S608 - names of this file
    row = await (await connection.execute(query.encode(), {"job": job_id, "after": after})).fetchone()
    epochs, *values = [entry or [] for entry in row or ()]
    return epochs, values


async def _read(
    connection: Connection, query: bytes, job_id: UUID, **parameters: object
) -> tuple[Standing, Sequence[Any]]:
    row = await (await connection.execute(query, {"job": job_id, **parameters})).fetchone()
    if row is None:
        raise JobNotFound(f"There is no job {job_id}.")
    owner, status, attempt, revision, last_epoch, *rest = row
    return Standing(job_id, owner, Status(status), attempt, revision, last_epoch), rest


@lru_cache
def _curves_query(names: tuple[str, ...], wanted: str) -> bytes:
    """Return the query of the wanted epochs, a JSON object a line; what JSON has no number for is `NaN` or `Infinity`.

    Postgres writes a double as the shortest text that reads back as the same number, and puts the lines together in
    half of the time in which it sends the numbers.
    """
    metrics = [f"""',"{name}":', {_number(name)}""" for name in names if name != REPLICAS]
    replicas = ["""',"replicas":' || replicas::text"""] if REPLICAS in names else []
    line = ", ".join(["""'{"epoch":', epoch""", *metrics, *replicas, "'}'"])
    lines = f"SELECT string_agg(concat({line}), E'\\n' ORDER BY epoch) FROM epochs WHERE {wanted}"  # noqa: S608 - names of this program
    return f"SELECT {_STANDING}, ({lines}) {_OF_JOB}".encode()


def _number(name: str) -> str:
    return f"coalesce({name}::text, 'null')" if Epoch.__table__.c[name].nullable else name
