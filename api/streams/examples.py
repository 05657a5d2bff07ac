"""What streams look like, for the API's description."""

_JOB = "01a1fc05-96f8-74b8-9c20-173cf1283400"
_STATUS = (
    '"from_status": "queued", "to_status": "running", "reason": null, "message": "Runs on lab-1.", "attempt": 1, '
    '"at": "2026-11-21T08:00:00.120000Z"'
)
_EPOCH = (
    '"epoch": 1, "train_loss": 1.91, "train_accuracy": 0.45, "validation_loss": 1.42, "validation_accuracy": 0.71, '
    '"learning_rate": 0.01, "seconds": 0.8'
)
_END = '"status": "succeeded", "reason": null, "message": null'


def _event(event_id: str, kind: str, fields: str) -> str:
    return f"id: {event_id}\nevent: {kind}\ndata: {{{fields}}}\n\n"


OF_JOB = (
    _event("812-0-0-0-0", "status", _STATUS)
    + _event("812-1-1-0-0", "epoch", _EPOCH)
    + _event("813-1-1-0-1", "end", _END)
)
OF_ALL = (
    _event("9f1c02d6a8b7e345-17", "status", f'"job": "{_JOB}", {_STATUS}')
    + _event("9f1c02d6a8b7e345-18", "epoch", f'"job": "{_JOB}", {_EPOCH}')
    + _event("9f1c02d6a8b7e345-19", "end", f'"job": "{_JOB}", {_END}')
)
