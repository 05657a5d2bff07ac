"""What the runner of an attempt is asked to stop for, and what that explains of its end."""

from typing import Literal

import structlog

from models.faults import FaultPoint, fault_point
from worker.runner_process import RunnerProcess

log = structlog.get_logger(__name__)

_Purpose = Literal["shutdown", "cancel", "pause", "preemption"]
_GRACE_SECONDS = 0.75  # a cancel must free the slot within two seconds
# What may wait for the end of the epoch loses nothing; lease and time limit end it all the same.
_GRACE_OF: dict[_Purpose, float | None] = {
    "shutdown": _GRACE_SECONDS,
    "cancel": _GRACE_SECONDS,
    "pause": None,
    "preemption": None,
}
# Why a job that runs goes back to the queue; None: the request was taken back, and the runner had left already.
_SENTENCES: dict[_Purpose | None, str] = {
    "shutdown": "The worker was shut down.",
    "cancel": "The attempt was stopped.",
    "pause": "The attempt had stopped before the request was taken back.",
    "preemption": "A job of higher priority needed its slot.",
    None: "The attempt had stopped before the request was taken back.",
}
_SEEN: dict[_Purpose | None, FaultPoint] = {"cancel": FaultPoint.CANCEL_SEEN, "pause": FaultPoint.PAUSE_SEEN}


class StopRequest:
    """The request that stands for now, if there is one."""

    def __init__(self) -> None:
        """Nothing is asked for yet."""
        self._purpose: _Purpose | None = None
        self._was_ever_asked = False

    def tell(self, runner: RunnerProcess, purpose: _Purpose | None) -> None:
        """Tell the runner what it is to stop for now, or with None that it may go on, if that is new."""
        if purpose == self._purpose:
            return
        if purpose in _SEEN:
            fault_point(_SEEN[purpose])
        log.info("runner_asked_to_stop", purpose=purpose)
        if purpose is None:
            runner.go_on()
        else:
            runner.ask_to_stop(purpose, grace_seconds=_GRACE_OF[purpose])
            self._was_ever_asked = True
        self._purpose = purpose

    def explains(self, exit_code: int | None) -> bool:
        """Tell whether a runner that ended so, without an outcome, has done what it was asked for."""
        return self._purpose is not None or (self._was_ever_asked and exit_code == 0)

    @property
    def sentence(self) -> str:
        """Why the job leaves the worker."""
        return _SENTENCES[self._purpose]
