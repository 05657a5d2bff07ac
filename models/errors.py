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


class NoPredictions(TrainyardError):
    """The job has succeeded, but its predictions were not kept."""

    code = "no_predictions"


class NotAClassification(TrainyardError):
    """What was asked for exists of a classification alone."""

    code = "not_a_classification"


class IllegalMove(TrainyardError):
    """The job's status does not allow what was asked."""

    code = "illegal_move"


class JobInUse(TrainyardError):
    """Another job, or a sweep, still needs what was to be deleted."""

    code = "job_in_use"


class DependencyFailed(TrainyardError):
    """A job that this one depends on has ended without success."""

    code = "dependency_failed"


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


class DataCacheDamaged(TrainyardError):
    """A file of decoded data was damaged or removed while a job used it; it is decoded again when it is next opened."""

    code = "data_cache_damaged"


class InitialCheckpointLost(TrainyardError):
    """The checkpoint that the job was to start from is missing or damaged."""

    code = "initial_checkpoint_lost"


class NonFiniteLoss(TrainyardError):
    """The training loss became infinite or not a number; the message names epoch and step."""

    code = "non_finite_loss"


class DeviceUnavailable(TrainyardError):
    """The device that the spec asks for is not there."""

    code = "device_unavailable"


class BatchOfOne(TrainyardError):
    """Batch norm cannot normalise a batch of one sample on a 1x1 map."""

    code = "batch_of_one"


class NotYours(TrainyardError):
    """Only its owner, or an admin, may change this."""

    code = "not_yours"


class UserNotFound(TrainyardError):
    """No user has this name."""

    code = "user_not_found"


class UserExists(TrainyardError):
    """Another user has this name."""

    code = "user_exists"


class UserDisabled(TrainyardError):
    """The user is disabled and gets no tokens."""

    code = "user_disabled"


class ReservedUser(TrainyardError):
    """The user who acts for whoever sends no token is a member without tokens of their own."""

    code = "reserved_user"


class LastAdmin(TrainyardError):
    """Without this user nobody could administrate."""

    code = "last_admin"


class TokenNotFound(TrainyardError):
    """No token that the caller may see has this id."""

    code = "token_not_found"


class ScopeExceedsRole(TrainyardError):
    """The user's role does not allow what the token was to allow."""

    code = "scope_exceeds_role"


class TooManyTokens(TrainyardError):
    """The user has as many working tokens as one may have."""

    code = "too_many_tokens"


class BadExpiry(TrainyardError):
    """A token's expiry that is over, or too far away."""

    code = "bad_expiry"


class WebhookNotFound(TrainyardError):
    """No webhook that the caller may see has this id."""

    code = "webhook_not_found"


class DeliveryNotFound(TrainyardError):
    """The webhook has no delivery with this id, or no longer."""

    code = "delivery_not_found"


class WebhookHostNotAllowed(TrainyardError):
    """The webhook's host is not on the service's list."""

    code = "webhook_host_not_allowed"


class WebhookAddressNotAllowed(TrainyardError):
    """The webhook's host is at an address that is not a public one."""

    code = "webhook_address_not_allowed"


class WebhookDisabled(TrainyardError):
    """Nothing is sent to a webhook that is disabled."""

    code = "webhook_disabled"


class TooManyWebhooks(TrainyardError):
    """A user has as many webhooks as one may have."""

    code = "too_many_webhooks"


class QueueNotFound(TrainyardError):
    """No queue can have this name."""

    code = "queue_not_found"


class QueueLimit(TrainyardError):
    """As many jobs of the user wait as may (`max_queued`)."""

    code = "queue_limit"


class PriorityNotAllowed(InvalidSpec):
    """The caller's role does not allow this priority; `errors` names the field."""

    code = "priority_not_allowed"


class SweepNotFound(TrainyardError):
    """No sweep has this id."""

    code = "sweep_not_found"


class WorkerNotFound(TrainyardError):
    """No worker has this id."""

    code = "worker_not_found"


class DiskFull(TrainyardError):
    """No space is left on the disk that a job writes to."""

    code = "disk_full"
