"""Every reason why a job is where it is, and which failures are tried again; `python -m models.reasons` prints them."""

from collections.abc import Iterable
from dataclasses import dataclass

WORKER_LOST = "worker_lost"
RUNNER_DIED = "runner_died"
RUNNER_ERROR = "runner_error"
OUT_OF_MEMORY = "out_of_memory"
TIME_LIMIT = "time_limit"
CANCELLED_BY_USER = "cancelled_by_user"
PAUSED_BY_USER = "paused_by_user"
PREEMPTED = "preempted"
STOPPED_BY_SWEEP = "stopped_by_sweep"
DEPENDENCY_FAILED = "dependency_failed"


@dataclass(frozen=True)
class Reason:
    """One reason: its name, what it means, and whether an attempt that ended for it is followed by another one.

    `retried` is what holds where the job's spec says nothing; None where no attempt fails for this reason.
    """

    name: str
    meaning: str
    retried: bool | None = None


# Tried again by themselves are failures that the job has no part in: the others would come again, at the lab's cost.
_ALL = (
    Reason(WORKER_LOST, "The worker was killed, or cut off for longer than its lease.", retried=True),
    Reason(RUNNER_DIED, "The process that trains ended by a signal, or without a result.", retried=True),
    Reason("invalid_data", "The data set is missing, damaged, or not what it was before.", retried=False),
    Reason(
        "data_cache_damaged",
        "The decoded data were damaged while they were read; the next attempt decodes them again.",
        retried=True,
    ),
    Reason("initial_checkpoint_lost", "The checkpoint that the job was to begin with is gone.", retried=False),
    Reason("network_does_not_fit", "The network cannot take samples of this shape.", retried=False),
    Reason("batch_of_one", "Batch norm had one value per channel, which has no variance.", retried=False),
    Reason("device_unavailable", "The device that the spec asks for is not there.", retried=False),
    Reason("not_deterministic", "`deterministic` was asked for, and a layer has no such operation.", retried=False),
    Reason("non_finite_loss", "The training loss became infinite, or not a number.", retried=False),
    Reason(OUT_OF_MEMORY, "The job needed more memory than it may have, or than there is.", retried=False),
    Reason("disk_full", "No space was left on the disk that the job writes to.", retried=False),
    Reason(TIME_LIMIT, "The job ran longer than `resources.time_limit_seconds`.", retried=False),
    Reason(RUNNER_ERROR, "The training raised an error that has no name of its own: the log shows it.", retried=False),
    Reason(DEPENDENCY_FAILED, "A job that this one depends on did not succeed."),
    Reason(CANCELLED_BY_USER, "A user cancelled it."),
    Reason(STOPPED_BY_SWEEP, "The rule of its sweep's early stopping gave it up."),
    Reason(PAUSED_BY_USER, "A user paused it."),
    Reason(PREEMPTED, "Its slot was wanted: by a worker that shut down, or by a job of higher priority."),
)
REASONS = {reason.name: reason for reason in _ALL}
FAILURES = tuple(reason.name for reason in _ALL if reason.retried is not None)  # what `retry.on` may name
RETRIED = tuple(reason.name for reason in _ALL if reason.retried)  # what it is by default


def table(reasons: Iterable[Reason] = _ALL) -> str:
    """Return the reasons as a Markdown table."""
    words = {True: "yes", False: "no", None: ""}
    rows = [f"| `{reason.name}` | {reason.meaning} | {words[reason.retried]} |" for reason in reasons]
    return "\n".join(["| Reason | Meaning | Tried again by default |", "|---|---|---|", *rows])


if __name__ == "__main__":
    print(table())
