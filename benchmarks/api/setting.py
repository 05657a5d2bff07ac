"""How much is measured: rounds, seconds, clients, and how many jobs, streams and scripts there are."""

from dataclasses import dataclass

CLIENTS = (1, 8, 32)
EPOCHS = 300
METRICS = ("train_loss", "train_accuracy", "validation_loss", "validation_accuracy", "learning_rate", "seconds")
PAGE = 100  # of the list
LEAST_ACCURACY = 0.6  # the list's filter; half of the jobs pass it


@dataclass(frozen=True)
class Scale:
    """One run; `seconds` are those of each measurement of each server with each number of clients, in each round.

    A stream sees an epoch each second, `stream_epochs` of them. A script asks once a second, for `poll_seconds`.
    """

    rounds: int
    seconds: float
    jobs: int = 1_000
    streams: int = 1_000
    stream_epochs: int = 20
    scripts: int = 200
    poll_seconds: int = 20
    waiting: int = 100


FULL = Scale(rounds=3, seconds=1.25)
QUICK = Scale(rounds=1, seconds=0.2, jobs=200, streams=50, stream_epochs=3, scripts=20, poll_seconds=3, waiting=20)
