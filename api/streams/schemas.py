"""The bodies of events, and how the API's description shows them; field names are frozen."""

from typing import Annotated, Any
from uuid import UUID

from pydantic import BaseModel, Field, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema

from api.jobs.schemas import EpochView, LogEntry, TransitionView
from api.streams.events import Kind
from models.job import Status
from models.result import Diagnosis


class EndView(BaseModel):
    """The final status of a job, and why."""

    status: Status
    reason: str | None
    message: str | None


class ResetView(BaseModel):
    """What to do about a gap."""

    message: str = "Events are missing here: read /jobs again."


class _OfJob(BaseModel):
    job: UUID


class LabStatus(TransitionView, _OfJob):
    """One change of status of a job."""


class LabEpoch(EpochView, _OfJob):
    """One finished epoch of a job."""


class LabLog(LogEntry, _OfJob):
    """A piece of what a job's runner printed."""


class LabDiagnosis(Diagnosis, _OfJob):
    """A finding of a job's result."""


class LabEnd(EndView, _OfJob):
    """The final status of a job, and why."""


class _Body:
    """Describes a text that holds the JSON of one of some views."""

    def __init__(self, *views: type[BaseModel]) -> None:
        self._views = views

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.union_schema([handler.generate_schema(view) for view in self._views])

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"type": "string", "contentMediaType": "application/json", "contentSchema": handler(schema)}


class JobEvent(BaseModel):
    """One event of a job's stream; `event` says which of the views `data` holds, in this order."""

    id: str = Field(description="What to send as `Last-Event-ID` to go on after this event.")
    event: Kind
    data: Annotated[str, _Body(TransitionView, EpochView, LogEntry, Diagnosis, EndView)]


class AnyJobsEvent(BaseModel):
    """One event of the stream of all jobs; `event` says which of the views `data` holds, in this order."""

    id: str = Field(description="What to send as `Last-Event-ID` to go on after this event.")
    event: Kind
    data: Annotated[str, _Body(LabStatus, LabEpoch, LabLog, LabDiagnosis, LabEnd, ResetView)]
