"""The time of a claim: ours by each offer, beside one that takes the oldest row and knows no users."""

import time
from collections.abc import Callable

import psycopg
from sqlalchemy.engine import make_url

from benchmarks.processes import MeasurementFailed
from benchmarks.queue.lines import fill
from benchmarks.queue.setting import OFFERS, Scale
from models.database import sync_engine, sync_sessions
from models.line import Offer
from models.settings import Settings
from worker.queue import Allocate, claim_next

BARE = "bare"
Claims = dict[tuple[str, int], list[float]]  # seconds of each claim, by offer and length of the line

_WARM_UP = 12  # claims until the driver and the server have prepared what they repeat
_BARE_CLAIM = """
    WITH next AS (SELECT id FROM bare WHERE status = 'queued' ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED)
    UPDATE bare SET status = 'running' FROM next WHERE bare.id = next.id RETURNING bare.spec
"""


def measure(database_url: str, scale: Scale, say: Callable[[str], None]) -> Claims:
    """Return the seconds of claims, each in a transaction of its own that is committed; all kinds in turn."""
    libpq = make_url(database_url).set(drivername="postgresql").render_as_string(hide_password=False)
    engine = sync_engine(Settings(DATABASE_URL=database_url, environment="development"), pool_size=1)
    sessions = sync_sessions(engine)
    found: Claims = {}

    def claim(offer: Offer) -> bool:
        with sessions.begin() as session:
            claim = claim_next(session, worker="benchmark", offer=offer, allocate=_gpus_of(offer), lease_seconds=3_600)
        return claim is not None

    try:
        for length in scale.lengths:
            fill(libpq, length)
            with psycopg.connect(libpq, autocommit=True) as connection:
                for number in range(-_WARM_UP, scale.claims_of(length)):
                    for name in (*OFFERS, BARE):
                        started = time.perf_counter()
                        if name == BARE:
                            got = connection.execute(_BARE_CLAIM).fetchone() is not None
                        else:
                            got = claim(OFFERS[name])
                        seconds = time.perf_counter() - started
                        if not got:
                            raise MeasurementFailed(f"{name}: nothing was claimed of {length} jobs")
                        if number >= 0:
                            found.setdefault((name, length), []).append(seconds)
            say(f"claims of {length:,} jobs")
    finally:
        engine.dispose()
    return found


def _gpus_of(offer: Offer) -> Allocate:
    return lambda demand, _: tuple(offer.gpus)[: demand.gpus]
