"""How predictions are read from the database: arrays turned into rows, filtered, sorted and cut by Postgres."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import ARRAY, ColumnElement, Double, Select, String, and_, cast, func, or_, select, true
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.sql.selectable import TableValuedAlias

from api.access.caller import Caller
from api.jobs.filters import bad_query
from api.jobs.queries import require_visible
from api.metrics.negotiation import MediaType
from api.predictions.schemas import PredictionView, Sort
from models.errors import NoPredictions, NotAClassification
from models.job import Job, Status
from models.predictions import Predictions

Figures = Mapping[str, ColumnElement[Any]]  # those of a PredictionView, by their names


@dataclass(frozen=True)
class Question:
    """Which samples are asked for, in which order; `after` is the index of the last one of the page before."""

    after: int | None
    limit: int
    wrong: bool | None
    label: int | None
    prediction: int | None
    sort: Sort
    media_type: MediaType

    @property
    def needs_classes(self) -> bool:
        """Whether a regression has no answer to it."""
        return self.sort != "index" or any(each is not None for each in (self.wrong, self.label, self.prediction))


@dataclass(frozen=True)
class Standing:
    """The job and what holds for all of its predictions."""

    job: Job
    samples: int
    samples_digest: str
    is_regression: bool


async def standing(session: AsyncSession, caller: Caller, job_id: UUID) -> Standing:
    """Return whose predictions there are; raise JobNotFound, JobNotFinished, NoResult or NoPredictions."""
    job = await require_visible(session, caller, job_id)
    if job.status != Status.SUCCEEDED:
        raise job.why_no_result()
    facts = (Predictions.samples, Predictions.samples_digest, Predictions.labels.is_(None))
    row = (await session.execute(select(*facts).where(Predictions.job_id == job_id))).first()
    if row is None:
        raise NoPredictions(
            "The predictions of this job are not kept: it ended before that was done, or has too many test samples."
        )
    return Standing(job, *row)


async def page(session: AsyncSession, of: Standing, question: Question) -> Sequence[tuple[int, str]]:
    """Return index and text of the samples asked for, one more than its limit where there are more.

    Raises NotAClassification for what a regression has not, and RequestValidationError where the page before is said
    to end with a sample that there is not, and the order does not tell what follows it.
    """
    if of.is_regression and question.needs_classes:
        raise NotAClassification(
            "A regression's predictions are not right or wrong and have no classes and no probabilities: leave out "
            "`wrong`, `label` and `prediction`, and sort by `index`."
        )
    found = [(index, text) for index, text in await session.execute(_query(of.job.id, question))]
    if not found and question.after is not None and question.sort != "index":
        reached = await session.scalar(_probability(of.job.id, question.after))
        if reached is None:
            raise bad_query("after", "There is no sample of this index", "invalid_cursor")
    return found


def _query(job_id: UUID, question: Question) -> Select[int, str]:
    """Return the query of a page; only its samples are written as text, not all that are sorted."""
    figures = dict(_found(job_id, question).subquery().c)
    return select(figures["index"], _text(figures, question.media_type)).order_by(*_order(figures, question.sort))


def _found(job_id: UUID, question: Question) -> Select[Any, Any, Any, Any]:
    sample = _samples()
    figures = sample.c.label, sample.c.prediction, sample.c.probability
    query = select(_index(sample).label("index"), *figures).select_from(Predictions).join(sample, true())
    query = query.where(Predictions.job_id == job_id).limit(question.limit + 1)
    if question.wrong is not None:
        query = query.where((sample.c.label != sample.c.prediction) == question.wrong)
    if question.label is not None:
        query = query.where(sample.c.label == question.label)
    if question.prediction is not None:
        query = query.where(sample.c.prediction == question.prediction)
    if question.after is not None:
        query = query.where(_follows(sample, question.sort, question.after, job_id))
    return query.order_by(*_order(dict(query.selected_columns), question.sort))


def _order(figures: Figures, sort: Sort) -> list[ColumnElement[Any]]:
    probability = figures["probability"]
    by_probability = {"probability": [probability.asc()], "-probability": [probability.desc()]}
    return [*by_probability.get(sort, []), figures["index"]]


def _samples() -> TableValuedAlias:
    """Return the arrays of a row as a table of one row per sample."""
    arrays = (
        func.coalesce(cast(Predictions.labels, ARRAY(Double)), Predictions.targets),
        func.coalesce(cast(Predictions.predictions, ARRAY(Double)), Predictions.estimates),
        Predictions.probabilities,
        Predictions.indices,
    )
    columns = ("label", "prediction", "probability", "place")
    return func.unnest(*arrays).table_valued(*columns, with_ordinality="number").render_derived()


def _index(sample: TableValuedAlias) -> ColumnElement[int]:
    return func.coalesce(sample.c.place, sample.c.number - 1)


def _text(figures: Figures, media_type: MediaType) -> ColumnElement[str]:
    """Return a sample as a JSON object, or as a line of CSV, where what is null is empty."""
    index, label, prediction, probability = (figures[name] for name in PredictionView.model_fields)
    if media_type is MediaType.CSV:
        return func.concat(index, ",", label, ",", prediction, ",", probability)
    shown = func.coalesce(cast(probability, String), "null")
    return func.concat(
        '{"index":', index, ',"label":', label, ',"prediction":', prediction, ',"probability":', shown, "}"
    )


def _follows(sample: TableValuedAlias, sort: Sort, after: int, job_id: UUID) -> ColumnElement[bool]:
    """Tell whether a sample comes after that of index `after`; among equal probabilities the index decides."""
    if sort == "index":
        return _index(sample) > after
    reached = _probability(job_id, after).correlate(None).scalar_subquery()
    probability = sample.c.probability
    beyond = probability > reached if sort == "probability" else probability < reached
    return or_(beyond, and_(probability == reached, _index(sample) > after))


def _probability(job_id: UUID, index: int) -> Select[float]:
    sample = _samples()
    found = select(sample.c.probability).select_from(Predictions).join(sample, true())
    return found.where(Predictions.job_id == job_id, _index(sample) == index)
