"""Why a job waits, and why nobody knows until when: each reason with the sentence that says it to a person."""

from enum import StrEnum


class WaitReason(StrEnum):
    """Why a job is not running yet; `sentence` says it to a person."""

    WAITS_FOR_JOBS = "waits_for_jobs"
    QUEUE_PAUSED = "queue_paused"
    USER_LIMIT = "user_limit"
    NO_WORKER_FOR_QUEUE = "no_worker_for_queue"
    NEEDS_MORE_GPUS = "needs_more_gpus"
    NEEDS_MORE_MEMORY = "needs_more_memory"
    RESERVED_FOR_LARGER_JOB = "reserved_for_larger_job"
    NO_FREE_SLOT = "no_free_slot"

    @property
    def sentence(self) -> str:
        """What it means."""
        return _WAIT_SENTENCES[self]


class NoEstimate(StrEnum):
    """Why nobody knows when a job starts or ends; `sentence` says it to a person."""

    NOT_MEASURED = "not_measured"  # it may have a start, not an end
    JOB_AHEAD_NOT_MEASURED = "job_ahead_not_measured"
    WAITS_FOR_JOBS = "waits_for_jobs"
    QUEUE_PAUSED = "queue_paused"
    USER_LIMIT = "user_limit"  # of none, or held by a job that nobody knows the end of
    NO_WORKER = "no_worker"
    TOO_FAR_BACK = "too_far_back"  # only the first of a long line are played forward
    TOO_COMPLEX = "too_complex"  # the play of the line was given up
    NOT_WORKED_OUT = "not_worked_out"  # it came since the line was last worked out
    OVERDUE = "overdue"  # it runs

    @property
    def sentence(self) -> str:
        """What it means."""
        return _NO_ESTIMATE_SENTENCES[self]


_WAIT_SENTENCES = {
    WaitReason.WAITS_FOR_JOBS: "A job that it depends on has not succeeded yet.",
    WaitReason.QUEUE_PAUSED: "Its queue is paused.",
    WaitReason.USER_LIMIT: "Its user runs as many jobs as they may.",
    WaitReason.NO_WORKER_FOR_QUEUE: "No worker that takes jobs serves its queue.",
    WaitReason.NEEDS_MORE_GPUS: "It needs more GPUs than are free together on one worker.",
    WaitReason.NEEDS_MORE_MEMORY: "It needs more memory than is free on any GPU.",
    WaitReason.RESERVED_FOR_LARGER_JOB: "It would fit, and delay a larger job ahead of it.",
    WaitReason.NO_FREE_SLOT: "Every slot is taken, or goes to jobs ahead of it.",
}
_NO_ESTIMATE_SENTENCES = {
    NoEstimate.NOT_MEASURED: "No like job has been measured on such a device.",
    NoEstimate.JOB_AHEAD_NOT_MEASURED: "A job ahead of it has no estimate.",
    NoEstimate.WAITS_FOR_JOBS: "It waits for other jobs to succeed.",
    NoEstimate.QUEUE_PAUSED: "Its queue is paused.",
    NoEstimate.USER_LIMIT: "Its user runs as many jobs as they may, and one of them has no estimate.",
    NoEstimate.NO_WORKER: "No worker that takes jobs now can run it.",
    NoEstimate.TOO_FAR_BACK: "It is behind the first thousand, for which estimates are made.",
    NoEstimate.TOO_COMPLEX: "The jobs ahead of it ask for too many different things to work out when it starts.",
    NoEstimate.NOT_WORKED_OUT: "It came within the last seconds; ask again.",
    NoEstimate.OVERDUE: "It has run for longer than like jobs took.",
}
