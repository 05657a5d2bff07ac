"""The soak, `make soak`: a lab's jobs while faults strike at random, then every invariant, and what processes hold."""

import argparse
import heapq
import shutil
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from random import Random, SystemRandom
from typing import Any

import httpx2
import psutil
import psycopg
from rich.console import Console
from rich.table import Table

from harness.faults import FaultPoints
from harness.figures import Figures, figures_of
from harness.growth import Held, Life, Lives, held_by_children
from harness.invariants import require_invariants
from harness.service import FINAL, Service
from harness.shocks import WORKERS, Shock, Strike, shocks
from local.stack import Stack

_USERS, _JOBS, _SLOTS = 10, 300, 2  # slots of each of the two workers
_LEASE_SECONDS = 4.0
_SETTINGS: Mapping[str, object] = {
    "lease_seconds": _LEASE_SECONDS,
    "beat_seconds": 0.5,
    "poll_seconds": 0.5,
    "sweep_seconds": 0.5,
    "retry_limit": 10,  # chance may strike one job often; that it then fails is tested elsewhere
    "rate_limit_burst": 100_000,
}
_PAUSE_SECONDS = (3.0, 9.0)  # between two faults
_MEDDLING_SECONDS = 4.0  # between two requests of a user who cancels, or pauses and resumes, some job
_SUBMITTING = 0.9  # of the time, so that jobs still wait when the last fault is healed
_LOOK_SECONDS = 2.0  # between two looks at what the processes hold
_END_SECONDS = 600.0
_CALM_SECONDS = 8.0  # until what ended has been given back
_MORE_BYTES, _MORE_FILES = 64 * 2**20, 12  # that a process may have at the end beyond the beginning
_TRAINING = {"seed": 11, "batch_size": 64}
_SPECS: Mapping[str, Mapping[str, Any]] = {
    "mlp": {"network": {"name": "mlp", "hidden": [64], "dropout": 0.2}, "training": _TRAINING | {"epochs": 120}},
    "lenet": {
        "dataset": {"name": "digits", "resize": 32},
        "network": {"name": "lenet"},
        "training": _TRAINING | {"epochs": 6},
    },
    "adam": {
        "network": {"name": "mlp", "hidden": [128]},
        "training": _TRAINING | {"epochs": 60, "optimizer": {"name": "adam", "learning_rate": 0.001}},
    },
    "replicas": {
        "network": {"name": "mlp", "hidden": [32]},
        "training": _TRAINING | {"epochs": 40, "replicas": 3},
    },
}


@dataclass
class Agenda:
    """What is to be done when; everything in one thread, one thing after the other."""

    _entries: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)
    _order: "count[int]" = field(default_factory=count)

    def at(self, moment: float, act: Callable[[], None]) -> None:
        """Do this at a moment of time.monotonic(), or as soon as what is due before it is done."""
        heapq.heappush(self._entries, (moment, next(self._order), act))

    def work_off(self) -> None:
        """Do everything, also what is added meanwhile."""
        while self._entries:
            moment, _, act = heapq.heappop(self._entries)
            time.sleep(max(0.0, moment - time.monotonic()))
            act()


class Soak:
    """One run on a stack of its own."""

    def __init__(self, service: Service, seed: int, minutes: float) -> None:
        self.service = service
        self.chance = Random(seed)
        self.seconds = minutes * 60
        self.agenda = Agenda()
        self.lives = Lives(service)
        self.fired: Counter[str] = Counter()
        self.meddled: Counter[str] = Counter()
        self.jobs: dict[str, str] = {}  # the name of the spec, by the job's id
        self.undisturbed: dict[str, Figures] = {}
        self.stalls: defaultdict[str, list[tuple[datetime, datetime]]] = defaultdict(list)  # by the name of a worker
        self.users = [service.client(service.new_user(f"user-{number}")) for number in range(_USERS)]

    def run(self) -> None:
        """Let the jobs and the faults happen, and wait until every job has ended."""
        begin = time.monotonic()
        names = [self.chance.choice(list(_SPECS)) for _ in range(_JOBS)]
        for number, name in enumerate(names):
            moment = begin + number * self.seconds * _SUBMITTING / _JOBS
            self.agenda.at(moment, lambda number=number, name=name: self._submit(number, name))  # type: ignore[misc]
        self._plan(begin + _PAUSE_SECONDS[0], begin + self.seconds, self._strike, _PAUSE_SECONDS)
        self._plan(begin + 1, begin + self.seconds, self._meddle, (0.0, 2 * _MEDDLING_SECONDS))
        self.agenda.at(begin, lambda: self._look(begin + self.seconds))
        self.agenda.work_off()

    def train_undisturbed(self) -> None:
        """Learn what each spec comes to when nothing happens."""
        for name, spec in _SPECS.items():
            job_id = self.service.submit({"dataset": {"name": "digits"}, **spec})
            assert self.service.wait_for_end(job_id, 300)["status"] == "succeeded"
            self.undisturbed[name] = figures_of(self.service, job_id)

    def wait_for_all(self) -> None:
        """Wait until no job is left that has not ended."""
        deadline = time.monotonic() + _END_SECONDS
        while left := self.service.rows("SELECT id, status FROM jobs WHERE NOT status = ANY(%s)", sorted(FINAL)):
            for job in left:
                if job["status"] == "paused":  # whoever paused it was cut off before the resume
                    self.service.http.post(f"/jobs/{job['id']}/resume")
            assert time.monotonic() < deadline, f"{len(left)} jobs have not ended, as {left[0]}"
            self.lives.look()  # nothing is killed any more: these are the longest lives
            time.sleep(_LOOK_SECONDS)

    def _plan(self, start: float, end: float, act: Callable[[], None], pause: tuple[float, float]) -> None:
        moment = start
        while moment < end:
            self.agenda.at(moment, act)
            moment += self.chance.uniform(*pause)

    def _look(self, until: float) -> None:
        self.lives.look()
        if time.monotonic() < until:
            self.agenda.at(time.monotonic() + _LOOK_SECONDS, lambda: self._look(until))

    def _submit(self, number: int, name: str) -> None:
        """Submit as a user's script would: again and again under one key, until there is an answer."""
        spec = {"dataset": {"name": "digits"}, **_SPECS[name]}
        key = {"Idempotency-Key": f"soak-{number}"}
        try:
            answer = self.users[number % _USERS].post("/jobs", json=spec, headers=key, timeout=3)
        except httpx2.TransportError:
            answer = None
        if answer is not None and answer.status_code == httpx2.codes.CREATED:
            self.jobs[answer.json()["id"]] = name
            return
        assert answer is None or answer.status_code in (409, 503), answer.text
        self.agenda.at(time.monotonic() + 0.5, lambda: self._submit(number, name))

    def _strike(self) -> None:
        shock: Shock = self.chance.choice(shocks(_LEASE_SECONDS))
        struck_at = datetime.now(UTC)
        try:
            strike = shock.strike(self.service, self.chance)
        except (psycopg.Error, psutil.Error):  # what it needed is away because of another one
            strike = None
        if strike is not None:
            self.fired[shock.name] += 1
            self.agenda.at(time.monotonic() + shock.seconds, lambda: self._heal(strike, struck_at))

    def _heal(self, strike: Strike, struck_at: datetime) -> None:
        strike.heal()
        for name in strike.stalled:
            self.stalls[name].append((struck_at, datetime.now(UTC)))

    def _meddle(self) -> None:
        if not self.jobs:
            return
        job_id = self.chance.choice(list(self.jobs)[-30:])
        action = self.chance.choice(("cancel", "pause"))
        if self._ask(job_id, action) and action == "pause":
            self.agenda.at(time.monotonic() + self.chance.uniform(0, 3), lambda: self._resume(job_id))

    def _resume(self, job_id: str) -> None:
        if not self._ask(job_id, "resume"):
            view = self._status(job_id)
            if view is None or view not in FINAL:
                self.agenda.at(time.monotonic() + 0.5, lambda: self._resume(job_id))

    def _ask(self, job_id: str, action: str) -> bool:
        try:
            answer = self.service.http.post(f"/jobs/{job_id}/{action}", timeout=3)
        except httpx2.TransportError:
            return False
        self.meddled[action] += answer.is_success
        return bool(answer.is_success)

    def _status(self, job_id: str) -> str | None:
        try:
            answer = self.service.http.get(f"/jobs/{job_id}", timeout=3)
        except httpx2.TransportError:
            return None
        return str(answer.json()["status"]) if answer.is_success else None


def judge(soak: Soak, console: Console) -> None:
    """Hold every invariant; raise AssertionError."""
    counted = soak.service.rows("SELECT count(*) AS n FROM jobs")[0]["n"]
    assert len(soak.jobs) == _JOBS, f"{len(soak.jobs)} jobs were submitted"
    assert counted == _JOBS + len(_SPECS), f"{counted} jobs are in the database: one was stored twice, or lost"
    for name in _SPECS:
        mine = [job_id for job_id, spec in soak.jobs.items() if spec == name]
        require_invariants(soak.service, mine, undisturbed=soak.undisturbed[name], stalls=soak.stalls)
    ended = soak.service.rows("SELECT status, reason, count(*) AS n FROM jobs GROUP BY 1, 2 ORDER BY 3 DESC")
    console.print(_table("How the jobs ended", ("status", "reason", "jobs"), [tuple(row.values()) for row in ended]))
    wrong = [row for row in ended if row["status"] == "failed"]
    assert not wrong, f"jobs failed: {wrong}"


def require_flat(before: Mapping[str, Held], after: Mapping[str, Held], console: Console) -> None:
    """Raise AssertionError where a process holds more than at the beginning, beyond an allowance."""
    rows = [
        (name, f"{was.resident / 2**20:.0f}", f"{after[name].resident / 2**20:.0f}", was.files, after[name].files)
        for name, was in before.items()
    ]
    console.print(_table("What each held, idle", ("process", "MiB before", "MiB after", "files before", "after"), rows))
    for name, was in before.items():
        assert after[name].resident <= was.resident + _MORE_BYTES, f"the memory of {name} has grown"
        assert after[name].files <= was.files + _MORE_FILES, f"the open files of {name} have grown"


def require_flat_lives(lives: Sequence[Life], console: Console) -> None:
    """Raise AssertionError where a process held more and more while it worked, or none lived long enough to tell."""
    rows = []
    for life in sorted(lives, key=lambda life: life.name):
        grown, allowed = life.growth, life.allowed
        memory = f"{grown.resident / 2**20:+.1f}", f"{allowed.resident / 2**20:.1f}"
        rows.append((life.name, f"{life.seconds:.0f}", *memory, f"{grown.files:+d}", allowed.files))
    columns = ("process", "seconds", "MiB more", "allowed", "files more", "allowed")
    console.print(_table("What each life added under load, once warm", columns, rows))
    assert lives, "no process lived long enough to tell whether it grows"
    for life in lives:
        assert life.growth.resident <= life.allowed.resident, f"{life.name} took more and more memory"
        assert life.growth.files <= life.allowed.files, f"{life.name} opened more and more files"


def _table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> Table:
    table = Table(*columns, title=title, title_justify="left")
    for row in rows:
        table.add_row(*map(str, row))
    return table


def soak_in(folder: Path, seed: int, minutes: float, console: Console) -> None:
    """Run a soak with its data in this folder; raise AssertionError where something is not as it must be."""
    points = folder / "faults"
    points.mkdir()
    settings = {f"TRAINYARD_{name.upper()}": str(value) for name, value in _SETTINGS.items()}
    environment = settings | {"TRAINYARD_FAULT_POINTS": str(points)}
    with Stack(folder, slots=_SLOTS, workers=len(WORKERS), environment=environment) as stack:
        service = Service(stack, folder, FaultPoints(points))
        soak = Soak(service, seed, minutes)
        console.print("Trains each spec undisturbed.")
        soak.train_undisturbed()
        time.sleep(_CALM_SECONDS)
        before = held_by_children(service)
        console.print(
            f"{_JOBS} jobs of {_USERS} users on {_SLOTS * len(WORKERS)} slots, {minutes:g} minutes of faults."
        )
        soak.run()
        console.print("The last fault is healed; waits for the jobs that are left.")
        soak.wait_for_all()
        time.sleep(_CALM_SECONDS)
        console.print(_table("What fired", ("fault", "times"), soak.fired.most_common()))
        console.print(_table("What users did", ("request", "times"), soak.meddled.most_common()))
        judge(soak, console)
        require_flat_lives(soak.lives.long_ones(), console)
        require_flat(before, held_by_children(service), console)
        service.close()


def main() -> int:
    """Run the soak; return 1, and leave its data to be looked at, where it found something."""
    options = argparse.ArgumentParser(prog="soak", description=__doc__)
    options.add_argument("--seed", type=int, default=SystemRandom().randrange(10**6), help="of which faults fire when")
    options.add_argument("--minutes", type=float, default=10.0, help="how long faults fire (default 10)")
    chosen = options.parse_args()
    console = Console(highlight=False)
    console.print(f"seed {chosen.seed}: --seed {chosen.seed} lets the same faults be drawn again")
    folder = Path(tempfile.mkdtemp(prefix="trainyard-soak-"))
    try:
        soak_in(folder, chosen.seed, chosen.minutes, console)
    except AssertionError as error:
        console.print(f"[red]{error}[/red]\nIts data and logs are in {folder}", soft_wrap=True)
        return 1
    shutil.rmtree(folder)
    console.print("Every invariant holds.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
