"""The route of a job's predictions: filtered, sorted, page by page, as JSON, NDJSON or CSV."""

import json
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Query, Response

from api.access.caller import ReaderDep
from api.codes import Responses, answers
from api.jobs.routes import JobId
from api.metrics.negotiation import MediaType, wanted_type
from api.paging import cut
from api.predictions import queries
from api.predictions.queries import Question, Standing
from api.predictions.schemas import PredictionPage, PredictionView, Sort
from api.query_names import takes
from api.services import SessionDep
from api.strict_json import StrictRoute
from models.spec import JobSpec

router = APIRouter(
    tags=["predictions"],
    route_class=StrictRoute,
)

MAX_PAGE = 10_000
_MAX_INDEX = 2**31 - 1
_MAX_CLASS = 999
_CSV_HEADER = ",".join(PredictionView.model_fields)
_Class = Annotated[int | None, Query(ge=0, le=_MAX_CLASS)]


def _question(
    after: Annotated[
        int | None, Query(ge=0, le=_MAX_INDEX, description="The index of the last sample of the page before")
    ] = None,
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE, description="Samples on a page")] = 1_000,
    wrong: Annotated[bool | None, Query(description="Only the wrong ones, or only the right ones")] = None,
    label: _Class = None,
    prediction: _Class = None,
    sort: Annotated[Sort, Query(description="`-probability` begins with the most confident")] = "index",
    accept: Annotated[str, Header(include_in_schema=False)] = "*/*",
) -> Question:
    return Question(after, limit, wrong, label, prediction, sort, wanted_type(accept))


_ANSWERS: Responses = {
    200: {
        "headers": {
            "Trainyard-Next": {
                "description": "The `after` of the following page, where there is one",
                "schema": {"type": "integer"},
            }
        },
        "content": {
            "application/x-ndjson": {"schema": {"type": "string", "description": "A PredictionView a line"}},
            "text/csv": {"schema": {"type": "string", "description": "A header line, and a line a sample"}},
        },
    },
    **answers(
        "job_not_found", "not_acceptable", "job_not_finished", "no_result", "no_predictions", "not_a_classification"
    ),
}


@router.get(
    "/jobs/{job_id}/predictions",
    response_model=PredictionPage,
    responses=_ANSWERS,
    dependencies=[takes("after", "limit", "wrong", "label", "prediction", "sort")],
)
async def get_predictions(
    job_id: JobId, question: Annotated[Question, Depends(_question)], caller: ReaderDep, session: SessionDep
) -> Response:
    """Show what the trained network says of each sample of the test split.

    `wrong=true&sort=-probability` shows the samples that it is most confidently wrong about.
    """
    standing = await queries.standing(session, caller, job_id)
    page, last = cut(await queries.page(session, standing, question), question.limit)
    following = None if last is None else last[0]
    headers = {"Vary": "Accept"} | ({} if following is None else {"Trainyard-Next": str(following)})
    content = _body(standing, [text for _, text in page], following, question.media_type)
    return Response(content, media_type=question.media_type.value, headers=headers)


def _body(standing: Standing, samples: list[str], following: int | None, media_type: MediaType) -> str:
    match media_type:
        case MediaType.CSV:
            return "".join(f"{line}\n" for line in (_CSV_HEADER, *samples))
        case MediaType.NDJSON:
            return "".join(f"{line}\n" for line in samples)
        case MediaType.JSON:
            dataset = JobSpec.model_validate(standing.job.spec).dataset
            head = {
                "job_id": str(standing.job.id),
                "task": dataset.task,
                "classes": dataset.class_names,
                "samples": standing.samples,
                "samples_digest": standing.samples_digest,
            }
            items = f'"items":[{",".join(samples)}],"next":{json.dumps(following)}'
            return f"{json.dumps(head)[:-1]},{items}}}"
