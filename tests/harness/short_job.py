"""The short job of the fault tests, and how far it is when a point holds it in its middle."""

from typing import Any

EPOCHS = 6
SHORT_JOB: dict[str, Any] = {
    "dataset": {"name": "digits"},
    "network": {"name": "mlp", "hidden": [64], "dropout": 0.2},
    "training": {
        "epochs": EPOCHS,
        "batch_size": 256,
        "seed": 11,
        "optimizer": {"name": "sgd", "learning_rate": 0.01, "momentum": 0.9},
    },
}
EPOCHS_BEFORE = 2  # passed before a point that comes once in an epoch holds
BATCHES_BEFORE = 15  # passed before the point in an epoch holds: it is in the third epoch then
SOON_LOST: dict[str, Any] = {"lease_seconds": 3, "beat_seconds": 0.5, "poll_seconds": 0.3, "sweep_seconds": 0.5}
