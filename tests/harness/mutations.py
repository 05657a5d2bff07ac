"""The guards of what may not be lost, each with its text in the source and the tests that stand for it."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Mutation:
    """A guard: `guard` stands once in `file`, `without` is what is there when it is taken out, `tests` then fail."""

    name: str
    file: str
    guard: str
    without: str
    tests: Sequence[str]


_CLAIMS = "tests/integration/test_claims.py"
_RESUME = "tests/training/test_resume.py"
_ANY = "                .where(Job.id == self._claim.job_id, Job.status.in_(LIVE))"
_OWN = _ANY.replace("job_id,", "job_id, Job.attempt == self._claim.attempt,")

MUTATIONS: Sequence[Mutation] = (
    Mutation(
        name="fence of every write",
        file="worker/attempt.py",
        guard=f"{_OWN}\n                .with_for_update(read=share)",
        without=f"{_ANY}\n                .with_for_update(read=share)",
        tests=[f"{_CLAIMS}::test_whatever_an_attempt_writes_after_its_lease_is_refused"],
    ),
    Mutation(
        name="row lock of every write",
        file="worker/attempt.py",
        guard="\n                .with_for_update(read=share)",
        without="",
        tests=[f"{_CLAIMS}::test_a_write_that_began_before_the_takeover_makes_the_takeover_wait"],
    ),
    Mutation(
        name="fence of the renewal",
        file="worker/attempt.py",
        guard=f"{_OWN}\n                .values(lease_expires_at=",
        without=f"{_ANY}\n                .values(lease_expires_at=",
        tests=[f"{_CLAIMS}::test_whatever_an_attempt_writes_after_its_lease_is_refused"],
    ),
    Mutation(
        name="conditional claim",
        file="worker/queue.py",
        guard="WHERE id = :job AND status = '{Status.QUEUED}' AND unmet = 0 FOR UPDATE SKIP LOCKED",
        without="WHERE id = :job FOR UPDATE SKIP LOCKED",
        tests=[f"{_CLAIMS}::test_a_job_that_ended_since_the_line_was_read_is_not_claimed"],
    ),
    Mutation(
        name="claims take turns",
        file="models/line.py",
        guard='    session.execute(ENTER, {"lock": _LOCK})',
        without="    pass",
        tests=[f"{_CLAIMS}::test_a_claim_waits_for_one_that_is_not_committed"],
    ),
    Mutation(
        name="expiry of leases that have run out only",
        file="worker/leases.py",
        guard="Job.lease_expires_at < now",
        without="Job.lease_expires_at.is_not(None)",
        tests=[f"{_CLAIMS}::test_a_renewed_lease_is_not_expired_and_one_that_ran_out_is"],
    ),
    Mutation(
        name="cancel before success",
        file="worker/attempt.py",
        guard="        if job.status != Status.CANCELLING:\n            return False",
        without="        return False",
        tests=[f"{_CLAIMS}::test_a_finish_after_a_cancel_was_asked_for_ends_as_cancelled"],
    ),
    Mutation(
        name="rows of lost leases are locked",
        file="worker/leases.py",
        guard="        .with_for_update(skip_locked=True)\n    ).all()\n    if in_touch",
        without="    ).all()\n    if in_touch",
        tests=[
            "tests/faults/test_races.py::test_a_renewal_that_comes_between_finding_and_expiring_waits_and_finds_the_lease_lost"
        ],
    ),
    Mutation(
        name="a reaper that was cut off itself waits",
        file="worker/leases.py",
        guard="    if in_touch_seconds() < lease_seconds:\n        return []\n",
        without="",
        tests=["tests/integration/test_reaper.py::test_who_was_out_of_touch_gives_every_worker_a_lease_to_report"],
    ),
    Mutation(
        name="a claim whose commit was not heard of is found",
        file="worker/slots.py",
        guard="self._unheard_of(session) if in_doubt else None",
        without="None",
        tests=["tests/faults/test_database_away.py::test_a_commit_whose_answer_was_lost_is_not_done_twice"],
    ),
    Mutation(
        name="an idle worker looks by itself",
        file="worker/slots.py",
        guard="timeout=self._settings.poll_seconds",
        without="timeout=None",
        tests=[
            "tests/faults/test_broker_away.py::test_an_idle_worker_finds_what_is_submitted_while_the_broker_is_away"
        ],
    ),
    Mutation(
        name="a runner ends with its lease",
        file="worker/runner.py",
        guard="commands.poll(None if lease_end is None else max(0.0, lease_end - time.monotonic()))",
        without="commands.poll(None)",
        tests=["tests/faults/test_lost_workers.py::test_a_runner_outlives_neither_its_suspended_worker_nor_its_lease"],
    ),
    Mutation(
        name="a runner ends after an outage of its worker",
        file="worker/supervisor.py",
        guard="        runner.set_deadline(_OUTAGE, renewed_at + self._settings.outage_seconds)\n",
        without="",
        tests=[
            "tests/faults/test_cut_off.py::test_a_runner_ends_when_its_worker_was_cut_off_for_longer_than_the_setting"
        ],
    ),
    Mutation(
        name="an epoch is recorded once",
        file="worker/attempt.py",
        guard='.on_conflict_do_update(index_elements=["job_id", "epoch"], set_=values)',
        without="",
        tests=[f"{_CLAIMS}::test_a_repeated_epoch_takes_its_own_row_again"],
    ),
    Mutation(
        name="epochs that are overtaken go",
        file="worker/attempt.py",
        guard="overtaken = session.execute(_DROP_OVERTAKEN, beyond).first() is not None",
        without="overtaken = beyond is None",
        tests=[f"{_CLAIMS}::test_an_attempt_that_begins_anew_overtakes_what_earlier_ones_had_recorded"],
    ),
    Mutation(
        name="fsync of a checkpoint before its rename",
        file="worker/checkpoints.py",
        guard="            os.fsync(file.fileno())\n",
        without="",
        tests=[
            "tests/training/test_durability.py::test_the_file_is_flushed_before_it_is_renamed_and_its_directory_after"
        ],
    ),
    Mutation(
        name="fsync of the directory after the rename",
        file="worker/checkpoints.py",
        guard="        os.fsync(directory)\n",
        without="        pass\n",
        tests=[
            "tests/training/test_durability.py::test_the_file_is_flushed_before_it_is_renamed_and_its_directory_after"
        ],
    ),
    Mutation(
        name="a checkpoint is written aside",
        file="worker/checkpoints.py",
        guard='aside = path.with_suffix(".part")',
        without="aside = path",
        tests=[f"{_RESUME}::test_no_kill_leaves_a_broken_file_under_the_name_of_a_checkpoint"],
    ),
    Mutation(
        name="checksum of a checkpoint",
        file="worker/checkpoints.py",
        guard="if hashlib.sha256(content).hexdigest() != recorded.sha256:",
        without="if not content:",
        tests=[f"{_RESUME}::test_a_newest_checkpoint_that_cannot_be_trusted_is_passed_over_for_the_one_before"],
    ),
    Mutation(
        name="fence in the checkpoint's file",
        file="worker/checkpoints.py",
        guard='if (loaded["attempt"], loaded["epoch"]) != (recorded.attempt, recorded.epoch):',
        without="if not loaded:",
        tests=[
            "tests/faults/test_checkpoints.py::test_a_checkpoint_of_another_attempt_is_not_used_though_its_checksum_is_the_recorded_one"
        ],
    ),
    Mutation(
        name="late files of an attempt that is over go",
        file="worker/supervisor.py",
        guard="                self._leave_no_strays()\n",
        without="",
        tests=[
            "tests/faults/test_cut_off.py::test_what_a_runner_writes_after_the_job_has_ended_elsewhere_goes_when_its_worker_hears_of_that"
        ],
    ),
)
