"""A job brought to a moment in which something is killed, and seen through from there as its user would."""

from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import httpx2

from harness.service import Service
from harness.short_job import BATCHES_BEFORE, EPOCHS_BEFORE
from models.faults import FaultPoint


@dataclass(frozen=True)
class Moment:
    """A point at which a process is held while another one, or it itself, is killed."""

    point: FaultPoint
    passes: int = 0
    request: str | None = None  # what a user asks for, so that the moment comes about
    has_runner: bool = True
    runner_waits_at: FaultPoint | None = None  # where it would have ended meanwhile


MOMENTS = {
    "in its claim": Moment(FaultPoint.CLAIM, has_runner=False),
    "before its runner starts": Moment(FaultPoint.CLAIMED, has_runner=False),
    "as its data are read": Moment(FaultPoint.DATA_LOADING),
    "in an epoch": Moment(FaultPoint.EPOCH, BATCHES_BEFORE),
    "as a checkpoint is written": Moment(FaultPoint.CHECKPOINT_WRITE, EPOCHS_BEFORE),
    "between checkpoint and event": Moment(FaultPoint.CHECKPOINT_SAVED, EPOCHS_BEFORE),
    "in the transaction of an epoch": Moment(
        FaultPoint.EPOCH_TRANSACTION, EPOCHS_BEFORE, runner_waits_at=FaultPoint.FINAL_EVALUATION
    ),
    "in its final evaluation": Moment(FaultPoint.FINAL_EVALUATION),
    "in its final transaction": Moment(FaultPoint.FINAL_TRANSACTION, has_runner=False),
    "in the transaction of a cancel": Moment(FaultPoint.CANCEL, request="cancel"),
    "as its worker sees a cancel": Moment(FaultPoint.CANCEL_SEEN, request="cancel"),
    "in the transaction of a pause": Moment(FaultPoint.PAUSE, request="pause"),
    "as its worker sees a pause": Moment(FaultPoint.PAUSE_SEEN, request="pause"),
}


@dataclass(frozen=True)
class Held:
    """A job of which a process is held at a moment, and what became of the request that led there."""

    job_id: str
    pid: int  # of its worker, or of its runner
    answered: Future[bool] | None


def bring_about(
    service: Service, spec: dict[str, Any], moment: Moment, faults: ExitStack, user: ThreadPoolExecutor
) -> Held:
    """Submit a job and return when the moment has come; `faults` ends it."""
    if moment.runner_waits_at is not None:
        faults.enter_context(service.faults.holding(moment.runner_waits_at))
    if moment.request is None:
        reached = faults.enter_context(service.faults.holding(moment.point, passes=moment.passes))
        return Held(service.submit(spec), reached(), None)
    in_an_epoch = faults.enter_context(service.faults.holding(FaultPoint.EPOCH, passes=BATCHES_BEFORE))
    job_id = service.submit(spec)
    runner = in_an_epoch()
    reached = faults.enter_context(service.faults.holding(moment.point))
    answered = user.submit(_ask, service, job_id, moment.request)
    reached()
    return Held(job_id, runner, answered)


def see_through(service: Service, held: Held, request: str | None) -> str:
    """Do what a user does who got no answer, or has paused a job; return the status that the job ends in."""
    if held.answered is not None and not held.answered.result():
        service.stack.wait_until_ready()
        assert request is not None
        # What was asked for may have been done, or the job may have ended, before it is asked for again.
        done = {"succeeded", "pausing", "paused"} if request == "pause" else {"succeeded"}
        assert _ask(service, held.job_id, request) or service.job(held.job_id)["status"] in done
    if request == "pause":
        job = service.wait_for(held.job_id, lambda job: job["status"] in {"paused", "succeeded"})
        if job["status"] == "paused":
            assert _ask(service, held.job_id, "resume")
    return str(service.wait_for_end(held.job_id)["status"])


def _ask(service: Service, job_id: str, request: str) -> bool:
    """Ask for a cancel or a pause; return whether that was answered with success."""
    try:
        return bool(service.http.post(f"/jobs/{job_id}/{request}").is_success)
    except httpx2.TransportError:
        return False
