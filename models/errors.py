"""The errors of the domain, in its own words; `api/problems.py` turns them into HTTP."""

from collections.abc import Sequence
from dataclasses import dataclass


class TrainyardError(Exception):
    """Base of all errors that a person can act on; `code` is stable, the message is a sentence."""

    code = "error"


@dataclass(frozen=True)
class FieldError:
    """One bad field of a request: its dotted path, a sentence and a stable code."""

    loc: str
    message: str
    code: str


class InvalidSpec(TrainyardError):
    """A job spec that cannot be run as it stands; names every bad field."""

    code = "invalid_spec"

    def __init__(self, errors: Sequence[FieldError]) -> None:
        super().__init__("; ".join(f"{error.loc}: {error.message}" for error in errors))
        self.errors = tuple(errors)


class JobNotFound(TrainyardError):
    """No job has this id."""

    code = "job_not_found"


class JobNotFinished(TrainyardError):
    """The job has no result yet."""

    code = "job_not_finished"


class NoResult(TrainyardError):
    """The job ended without a result (it failed or was cancelled)."""

    code = "no_result"


class IllegalMove(TrainyardError):
    """The job's status does not allow what was asked."""

    code = "illegal_move"


class RecipeNotFound(TrainyardError):
    """No recipe has this name."""

    code = "recipe_not_found"


class InvalidRecipe(TrainyardError):
    """A recipe's file that cannot be used; the message names the file and every bad field."""

    code = "invalid_recipe"


class DatasetNotFound(TrainyardError):
    """No data set has this name."""

    code = "dataset_not_found"


class InvalidData(TrainyardError):
    """A data set that is missing, truncated or inconsistent; the message names the file."""

    code = "invalid_data"


class NonFiniteLoss(TrainyardError):
    """The training loss became infinite or not a number; the message names epoch and step."""

    code = "non_finite_loss"


class DeviceUnavailable(TrainyardError):
    """The device that the spec asks for is not there."""

    code = "device_unavailable"


class BatchOfOne(TrainyardError):
    """Batch norm cannot normalise a batch of one sample on a 1x1 map."""

    code = "batch_of_one"
