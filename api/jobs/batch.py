"""Many jobs in one request: all of them or none, or each on its own merits."""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from itertools import chain, islice
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, BackgroundTasks, Response
from pydantic import BaseModel, Field, SkipValidation, TypeAdapter, ValidationError
from sqlalchemy.ext.asyncio import AsyncSession

from api.access.caller import Caller, WriterDep
from api.audit.queries import record
from api.codes import answers
from api.idempotency import IdempotentRoute, idempotent_after
from api.jobs import references
from api.jobs.limits import check_priority, room_in_queue
from api.problems import STATUS_OF, Problem, problem_body
from api.recipes.schemas import SubmittedSpec
from api.services import ServicesDep, SessionDep
from api.statements import connection_of
from models.errors import FieldError, InvalidSpec, QueueLimit
from models.job import Job
from models.pace import refresh_estimates
from models.queue_limit import QueueRoom
from models.references import unmet_of
from models.spec import JobSpec
from models.validation import Strict, error_code, field_path

MAX_JOBS = 500
MAX_BATCH_BYTES = 4 * 1_048_576  # 8 KiB a spec; a whole one with twenty layers has 2 KiB
_MAX_ERRORS = 1_000  # named in one answer

_SPEC: TypeAdapter[JobSpec] = TypeAdapter(SubmittedSpec)

CheckPriority = Callable[[int], None]  # raises InvalidSpec for one that the caller may not ask for
Checked = dict[str, Any] | InvalidSpec  # a resolved spec as it is stored, or what is wrong with it
Outcome = Job | InvalidSpec | QueueLimit


class Batch(Strict):
    """Specs, each as `POST /jobs` takes it; with `all`, one bad spec refuses them all."""

    jobs: Annotated[list[SkipValidation[SubmittedSpec]], Field(min_length=1, max_length=MAX_JOBS)]
    mode: Literal["all", "each"] = "all"


class SubmittedJob(BaseModel):
    """A job that was stored, in short."""

    id: UUID
    name: str | None
    queue: str
    seed: int
    created_at: datetime


class StoredItem(BaseModel):
    """A spec that became a job."""

    status: Literal[201] = 201
    job: SubmittedJob


class RefusedItem(BaseModel):
    """A spec that was refused, with the problem that `POST /jobs` would answer with; 429: no more jobs may wait."""

    status: Literal[422, 429] = 422
    error: Problem


class BatchView(BaseModel):
    """What became of each spec, in their order."""

    items: list[Annotated[StoredItem | RefusedItem, Field(discriminator="status")]]


class BatchRoute(IdempotentRoute):
    """A route whose body may hold many specs."""

    max_body_bytes = MAX_BATCH_BYTES


router = APIRouter(
    tags=["jobs"],
    route_class=BatchRoute,
)


@dataclass(frozen=True)
class _CheckedBatch:
    """What is to become of a batch: for each of its specs the one to be stored, or what is wrong with it."""

    all_or_none: bool
    specs: Sequence[Checked]


async def _checked(batch: Batch, caller: WriterDep, services: ServicesDep) -> _CheckedBatch:
    """Check every spec; with `all`, raise InvalidSpec for the bad ones."""
    check = partial(check_priority, caller, services.settings)
    return await services.checks.run(caller.user_id, partial(_check_all, batch, check))


@router.post(
    "/jobs:batch",
    response_model=BatchView,
    responses={
        200: {"description": "With `each`: what became of each spec"},
        201: {"model": BatchView, "description": "With `all`: every spec became a job"},
        **answers("queue_limit"),
    },
)
async def submit_batch(
    batch: Annotated[_CheckedBatch, idempotent_after(_checked)],
    caller: WriterDep,
    session: SessionDep,
    services: ServicesDep,
    background: BackgroundTasks,
) -> Response:
    """Store up to 500 jobs in one transaction, in the order of their specs, and wake a worker per queue."""
    checked, unmet = await _with_references(session, caller, batch.specs)
    room = await room_in_queue(session, services.settings, caller.user_id)
    if batch.all_or_none:
        _refuse_unless_all_good(checked)
        room.require(len(checked))
    outcomes: list[Outcome] = [
        Job.submit(spec, user_id=caller.user_id, unmet=waits_for) if isinstance(spec, dict) else spec
        for spec, waits_for in zip(_within_room(checked, room), unmet, strict=True)
    ]
    jobs = [outcome for outcome in outcomes if isinstance(outcome, Job)]
    session.add_all(jobs)
    await session.flush()
    await session.execute(refresh_estimates([job.id for job in jobs]))
    for job in jobs:
        record(session, caller, "job.submit", f"job:{job.id}")
    for queue, waiting in Counter(job.queue for job in jobs).items():
        background.add_task(services.wakes.send, queue, waiting)
    background.add_task(services.news.tell, [job.id for job in jobs])
    return _answer(201 if batch.all_or_none else 200, outcomes)


async def _with_references(
    session: AsyncSession, caller: Caller, checked: Sequence[Checked]
) -> tuple[list[Checked], list[Sequence[UUID]]]:
    """Return what was checked, with bad references refused, and for each spec the jobs that its job has to wait for."""
    specs = [spec if isinstance(spec, dict) else {} for spec in checked]
    jobs = await references.lock(await connection_of(session), specs)
    outcomes, unmet = list(checked), list[Sequence[UUID]]()
    for place, spec in enumerate(specs):
        try:
            unmet.append(unmet_of(spec, jobs, caller.may_read))
        except InvalidSpec as error:
            outcomes[place] = error
            unmet.append([])
    return outcomes, unmet


def _check_all(batch: Batch, check_priority: CheckPriority) -> _CheckedBatch:
    checked = _CheckedBatch(batch.mode == "all", [_check(body, check_priority) for body in batch.jobs])
    if checked.all_or_none:
        _refuse_unless_all_good(checked.specs)
    return checked


def _check(body: Any, check_priority: CheckPriority) -> Checked:
    """Return the resolved spec of a body, as it is stored, or what is wrong with it."""
    try:
        spec = _SPEC.validate_python(body).resolved()
        check_priority(spec.priority)
    except InvalidSpec as error:
        return error
    except ValidationError as error:
        entries = error.errors(include_url=False, include_input=False)[:_MAX_ERRORS]
        return InvalidSpec(
            [FieldError(field_path(entry, entry["loc"], body), entry["msg"], error_code(entry)) for entry in entries]
        )
    return spec.as_json()


def _refuse_unless_all_good(checked: Sequence[Checked]) -> None:
    """Raise InvalidSpec that names each bad field as `jobs.<index>.<field>`."""
    bad = [(index, spec) for index, spec in enumerate(checked) if isinstance(spec, InvalidSpec)]
    if bad:
        errors = chain.from_iterable(_within(f"jobs.{index}", spec.errors) for index, spec in bad)
        raise InvalidSpec(list(islice(errors, _MAX_ERRORS)))


def _within(place: str, errors: Sequence[FieldError]) -> list[FieldError]:
    return [FieldError(f"{place}.{error.loc}" if error.loc else place, error.message, error.code) for error in errors]


def _within_room(checked: Sequence[Checked], room: QueueRoom) -> Iterator[Checked | QueueLimit]:
    """Yield what was checked; of the good specs, those for which there is no room any more are refused."""
    for spec in checked:
        if isinstance(spec, InvalidSpec):
            yield spec
        elif room.left == 0:
            yield room.refusal()
        else:
            room = QueueRoom(room.waiting + 1, room.most)
            yield spec


def _answer(status: int, outcomes: Sequence[Outcome]) -> Response:
    """Return the answer in ASCII: an error may quote a lone surrogate, which UTF-8 cannot carry."""
    return Response(json.dumps({"items": list(map(_item, outcomes))}), status, media_type="application/json")


def _item(outcome: Outcome) -> dict[str, Any]:
    if not isinstance(outcome, Job):
        fields = outcome.errors if isinstance(outcome, InvalidSpec) else ()
        status = STATUS_OF[type(outcome)]
        return {"status": status, "error": problem_body(status, outcome.code, str(outcome), fields)}
    job = SubmittedJob(
        id=outcome.id,
        name=outcome.name,
        queue=outcome.queue,
        seed=outcome.spec["training"]["seed"],
        created_at=outcome.created_at,
    )
    return StoredItem(job=job).model_dump(mode="json")
