"""Long lines of waiting jobs, made in the database: of many users, priorities and demands, measured and not."""

import json

import psycopg

from benchmarks.queue.setting import QUEUE, USERS
from models.spec import JobSpec

_SPEC = {"dataset": {"name": "digits"}, "network": {"name": "mlp"}}
# One job in five is of the CPU, one in five shares a GPU, one in fifty takes four; a third has no estimate.
_FILL = """
    WITH people AS (SELECT id, row_number() OVER (ORDER BY name) AS number FROM users WHERE name LIKE 'bench-%%')
    INSERT INTO jobs (
        id, user_id, queue, priority, device, gpus, gpu_memory_bytes, exclusive, likeness, estimated_seconds, unmet,
        queued_at, status, spec, epochs, attempt, retries
    )
    SELECT uuidv7(), people.id, %(queue)s, CASE WHEN job %% 10 = 0 THEN 5 ELSE 0 END, kind.device,
        CASE WHEN kind.gpus > 0 AND job %% 50 = 3 THEN 4 ELSE kind.gpus END, kind.gpu_memory_bytes, job %% 97 = 0,
        'like-' || job %% 300, CASE WHEN job %% 3 > 0 THEN (job * 7) %% 3000 END, 0,
        clock_timestamp(), 'queued', %(spec)s::jsonb, 10, 0, 0
    FROM generate_series(1, %(jobs)s) AS job
    JOIN people ON number = 1 + job %% %(users)s
    JOIN (VALUES
        (0, 'auto', 1, 2000000000), (1, 'cuda', 1, NULL), (2, 'cpu', 0, NULL), (3, 'auto', 1, 8000000000),
        (4, 'auto', 1, NULL)
    ) AS kind (number, device, gpus, gpu_memory_bytes) ON kind.number = (job / 7) %% 5
"""
_ADD_USERS = """
    INSERT INTO users (id, name, role) SELECT gen_random_uuid(), 'bench-' || number, 'member'
    FROM generate_series(1, %(users)s) AS number ON CONFLICT (name) DO NOTHING
"""
_BARE = """
    DROP TABLE IF EXISTS bare;
    CREATE TABLE bare (id uuid PRIMARY KEY, status text NOT NULL, spec jsonb NOT NULL);
    CREATE INDEX ON bare (id) WHERE status = 'queued';
    INSERT INTO bare SELECT id, status, spec FROM jobs;
"""


def fill(database_url: str, jobs: int, *, queue: str = QUEUE) -> None:
    """Let this line, and no other job, wait in a queue, and as many rows in a table that knows no more than a status.

    `database_url` is as libpq reads it.
    """
    spec = json.dumps(JobSpec.model_validate(_SPEC | {"queue": queue}).resolved().as_json())
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("TRUNCATE jobs CASCADE")
        connection.execute("DELETE FROM shares")
        connection.execute(_ADD_USERS, {"users": USERS})
        connection.execute(_FILL, {"queue": queue, "spec": spec, "jobs": jobs, "users": USERS})
        connection.execute(_BARE)
        # Now, not in the middle of a measurement.
        connection.execute("VACUUM ANALYZE")
        connection.execute("CHECKPOINT")
