"""How long a job waited while a worker had a slot free, from the moves and attempts in the database."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import psutil

from harness.service import Service

Span = tuple[datetime, datetime]
Stalls = Mapping[str, Sequence[Span]]  # by the name of a worker's child

_BEGINNING, _END = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
_READY = re.compile(r"^timestamp=(\S+) .*event=slots_ready", re.MULTILINE)
_WAITS = """
    SELECT at AS since, coalesce(lead(at) OVER (PARTITION BY job_id ORDER BY id), clock_timestamp()) AS until, to_status
    FROM transitions WHERE job_id = ANY(%s)
"""


def longest_wait(service: Service, job_ids: Sequence[str], healed_at: datetime | None, stalls: Stalls) -> float:
    """Return the longest time in seconds that one of these jobs waited beside a slot that was free all the while.

    What a worker had free before it was ready to claim, before `healed_at`, or in one of its stalls does not count.
    """
    waits = [wait for wait in service.rows(_WAITS, list(job_ids)) if wait["to_status"] == "queued"]
    workers = service.rows("SELECT name, slots FROM workers WHERE stopped_at IS NULL")
    attempts = service.rows("SELECT worker, started_at, ended_at FROM attempts WHERE ended_at IS NOT NULL")
    longest = 0.0
    for worker in workers:
        own = [attempt for attempt in attempts if attempt["worker"] == worker["name"]]
        child = f"worker-{worker['name'].rpartition('-')[2]}"
        there_since = max(_ready_at(service, child), healed_at or _BEGINNING)
        for since, until in without_stalls(stalls.get(child, ()), _free(own, worker["slots"])):
            for wait in waits:
                both = min(until, wait["until"]) - max(since, wait["since"], there_since)
                longest = max(longest, both.total_seconds())
    return longest


def _free(attempts: Sequence[dict[str, Any]], slots: int) -> Iterator[Span]:
    """Yield the times in which fewer attempts ran than there are slots."""
    changes = [(attempt["started_at"], 1) for attempt in attempts] + [(attempt["ended_at"], -1) for attempt in attempts]
    running, free_since = 0, None
    for (moment, change), (following, _) in pairwise([(_BEGINNING, 0), *sorted(changes), (_END, 0)]):
        running += change
        if running >= slots:
            if free_since is not None:
                yield free_since, moment
            free_since = None
        elif free_since is None:
            free_since = moment
        if following == _END and free_since is not None:
            yield free_since, _END


def without_stalls(stalls: Sequence[Span], spans: Iterable[Span]) -> Iterator[Span]:
    """Yield what is left of the spans between the stalls."""
    for since, until in spans:
        for stalled_since, stalled_until in sorted(stalls):
            if stalled_since < until and since < stalled_until:
                yield since, stalled_since
                since = max(since, stalled_until)
        yield since, until


def _ready_at(service: Service, child: str) -> datetime:
    """Return when the worker that runs now began to claim: after its import of torch, which can take long."""
    if child not in service.stack.children:
        return _BEGINNING  # a test runs it by itself: its start is all that is known
    said = _READY.findall(service.log(child))
    if not said or not service.stack.is_running(child):
        return _END
    ready_at = datetime.fromisoformat(said[-1])
    is_of_another = ready_at.timestamp() < psutil.Process(service.stack.pid(child)).create_time()
    return _END if is_of_another else ready_at
