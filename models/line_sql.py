"""The statements of the line: how a claim finds its head, and how all of it is put in order."""

from sqlalchemy import text

from models.job import LIVE, TAKES_WHOLE_GPUS, Status
from models.share import DECAY, DEFAULT_WEIGHT, NOW

# What a job is taken to need that nobody has measured: enough that a user's many new jobs do not count as none.
_UNKNOWN_SECONDS = 600
_NEAR = 8  # jobs of each user that are looked at before their line is searched kind by kind

# A plan made once serves every claim, also one made while a table was still empty: by the indexes alone, therefore.
# Compiling it, or parallel workers, would take longer than running it.
ENTER = text(
    "SELECT set_config('plan_cache_mode', 'force_generic_plan', true), set_config('enable_seqscan', 'off', true), "
    "set_config('jit', 'off', true), set_config('max_parallel_workers_per_gather', '0', true), "
    "pg_advisory_xact_lock(:lock)"
)

_RUNNING = ", ".join(f"'{status}'" for status in sorted(LIVE))
_MAY_BE_CLAIMED = f"status = '{Status.QUEUED}' AND unmet = 0"
_PAUSED = "SELECT name FROM queues WHERE paused_at IS NOT NULL"
_SECONDS = f"coalesce(estimated_seconds, {_UNKNOWN_SECONDS})"


def _age(on_cpu: str) -> str:
    """Return the SQL of the points that a job has for the time in which its user was not served on such a device."""
    served = f"CASE WHEN {on_cpu} THEN cpu_served_at ELSE served_at END"
    return f"floor(greatest(date_part('epoch', {NOW} - greatest(queued_at, {served})), 0) / :ageing)"


# Each user's charges and limits; what runs are few jobs, whose attempts are looked up one by one however few there were
# when the plan was made.
_STANDINGS = f"""
    standings AS MATERIALIZED (
        SELECT users.id AS user_id, coalesce(weight, {DEFAULT_WEIGHT}) AS weight, served_at, cpu_served_at,
            coalesce(coalesce(running, 0) >= max_running, false) AS at_limit,
            coalesce(gpu_seconds * {DECAY}, 0) + coalesce(gpu_charge, 0) AS gpu_charge,
            coalesce(cpu_seconds * {DECAY}, 0) + coalesce(cpu_charge, 0) AS cpu_charge
        FROM users LEFT JOIN shares ON shares.user_id = users.id LEFT JOIN (
            SELECT user_id, count(*) AS running,
                sum(cardinality(taken) * seconds) AS gpu_charge,
                sum(seconds) FILTER (WHERE cardinality(taken) = 0) AS cpu_charge
            FROM (
                SELECT user_id, taken, greatest(date_part('epoch', {NOW} - started_at), {_SECONDS}) AS seconds
                FROM jobs CROSS JOIN LATERAL (
                    SELECT gpus AS taken, started_at FROM attempts WHERE job_id = jobs.id AND number = attempt LIMIT 1
                ) AS newest
                WHERE status IN ({_RUNNING})
            ) AS runs GROUP BY user_id
        ) AS live ON live.user_id = users.id
    )
"""  # noqa: S608 - names of this program

_ON_CPU = "(device = 'cpu' OR device = 'auto' AND NOT :has_gpus)"
_WHOLE_BYTES = "CAST(:whole_bytes AS bigint[])"
_BESIDE_WHOLE_BYTES = "CAST(:beside_whole_bytes AS bigint[])"
_ESTIMATE = "coalesce(estimated_seconds, 'Infinity')"


def _fits_whole(bytes_of_each: str) -> str:
    """Return the SQL of whether GPUs with so many bytes, the largest first, are enough for a job that shares none."""
    return f"gpus <= cardinality({bytes_of_each}) AND coalesce(gpu_memory_bytes, 0) <= ({bytes_of_each})[gpus]"


# What fits beside a reserved job, on GPUs that are too small for it, may take as long as it likes.
_FITS = f"""
    CASE WHEN {_ON_CPU} THEN {_ESTIMATE} <= :cpu_seconds
        WHEN {TAKES_WHOLE_GPUS} THEN {_ESTIMATE} <= :gpu_seconds AND {_fits_whole(_WHOLE_BYTES)}
            OR {_fits_whole(_BESIDE_WHOLE_BYTES)}
        ELSE {_ESTIMATE} <= :gpu_seconds AND gpu_memory_bytes <= :shared_bytes
            OR gpu_memory_bytes <= :beside_shared_bytes
    END
    AND id <> ALL (CAST(:passed AS uuid[]))
"""
_KIND = f"queue, device, gpus, ({TAKES_WHOLE_GPUS}) AS whole"
_NEXT_KIND = f"ORDER BY device, gpus, ({TAKES_WHOLE_GPUS}) LIMIT 1"
_SHOWN = f"""
    id, priority, queued_at, device, gpus, gpu_memory_bytes, exclusive, reserved_by, reserved_for, {_ON_CPU} AS on_cpu
"""

# The head of each user's line is found by looking at its first jobs, for most often one of them fits; else by one look
# into the index for each kind that the worker could run, which passes over any number of jobs that it cannot. Either
# way finds the same job. A kind is found by a jump in the index: there are few.
HEAD = text(f"""
    WITH RECURSIVE {_STANDINGS},
    served AS MATERIALIZED (SELECT unnest(CAST(:queues AS text[])) AS name EXCEPT {_PAUSED}),
    kinds AS (
        SELECT kind.* FROM served CROSS JOIN LATERAL (
            SELECT {_KIND} FROM jobs WHERE {_MAY_BE_CLAIMED} AND queue = served.name {_NEXT_KIND}
        ) AS kind
        UNION ALL
        SELECT kind.* FROM kinds AS before CROSS JOIN LATERAL (
            SELECT {_KIND} FROM jobs
            WHERE {_MAY_BE_CLAIMED} AND queue = before.queue
                AND (device, gpus, ({TAKES_WHOLE_GPUS})) > (before.device, before.gpus, before.whole) {_NEXT_KIND}
        ) AS kind
    ),
    offered AS MATERIALIZED (
        SELECT * FROM kinds WHERE CASE
            WHEN {_ON_CPU} THEN :cpu_seconds > 0
            WHEN whole THEN gpus <= CASE
                WHEN :gpu_seconds > 0 THEN cardinality({_WHOLE_BYTES}) ELSE cardinality({_BESIDE_WHOLE_BYTES})
            END
            ELSE :gpu_seconds > 0 AND :shared_bytes > 0 OR :beside_shared_bytes > 0
        END
    )
    SELECT head.*, date_part('epoch', reserved_for - clock_timestamp()) AS starts_in, EXISTS (
        SELECT FROM jobs WHERE reserved_by IS NOT NULL AND id <> head.id
    ) AS others_reserved
    FROM standings CROSS JOIN LATERAL (
        (
            SELECT {_SHOWN} FROM (
                SELECT * FROM jobs WHERE status = '{Status.QUEUED}' AND user_id = standings.user_id
                ORDER BY priority DESC, id LIMIT {_NEAR}
            ) AS near
            WHERE unmet = 0 AND queue IN (SELECT name FROM served) AND {_FITS} ORDER BY priority DESC, id LIMIT 1
        ) UNION ALL (
            SELECT first.* FROM offered CROSS JOIN LATERAL (
                SELECT {_SHOWN} FROM (
                    SELECT * FROM jobs
                    WHERE {_MAY_BE_CLAIMED} AND queue = offered.queue AND device = offered.device
                        AND gpus = offered.gpus AND ({TAKES_WHOLE_GPUS}) = offered.whole
                        AND user_id = standings.user_id
                    ORDER BY priority DESC, id LIMIT CAST(:depth AS bigint)
                ) AS same WHERE {_FITS} ORDER BY priority DESC, id LIMIT 1
            ) AS first ORDER BY priority DESC, id LIMIT 1
        ) LIMIT 1
    ) AS head
    WHERE NOT at_limit
    ORDER BY priority + {_age("on_cpu")} DESC, CASE WHEN on_cpu THEN cpu_charge ELSE gpu_charge END / weight, id LIMIT 1
""")  # noqa: S608 - names of this program

# Within a user's line neither the effective priority rises nor, at the same one, the share falls: hence the maximum. A
# user has two, for what runs on GPUs and on the CPU does not stand in each other's way.
WAITING = text(f"""
    WITH {_STANDINGS},
    waiting AS (
        SELECT id, user_id, priority, queued_at, unmet > 0 OR queue IN ({_PAUSED}) AS held,
            gpus, {_SECONDS} AS seconds, CASE
                WHEN device = 'cuda' THEN 'gpu'
                WHEN device = 'auto' AND EXISTS (SELECT FROM workers WHERE gpus <> '[]' AND stopped_at IS NULL)
                    THEN 'gpu'
                ELSE 'cpu'
            END AS pool
        FROM jobs WHERE status = '{Status.QUEUED}'
    ),
    costly AS (SELECT *, CASE pool WHEN 'gpu' THEN gpus ELSE 1 END * seconds AS cost FROM waiting),
    placed AS (
        SELECT id, user_id, priority, held, pool,
            priority + CASE WHEN row_number() OVER own = 1 THEN {_age("pool = 'cpu'")} ELSE 0 END AS effective_priority,
            (
                CASE pool WHEN 'gpu' THEN gpu_charge ELSE cpu_charge END
                + sum(cost) OVER (PARTITION BY user_id, held, pool ORDER BY priority DESC, id) - cost
            ) / weight AS share
        FROM costly JOIN standings USING (user_id)
        WINDOW own AS (PARTITION BY user_id, held, pool ORDER BY priority DESC, id)
    ),
    lined_up AS (
        SELECT *, max(share) OVER (
            PARTITION BY user_id, held, pool, effective_priority ORDER BY priority DESC, id
        ) AS highest_share
        FROM placed
    )
    SELECT id, user_id, CAST(effective_priority AS int), share, pool,
        row_number() OVER (ORDER BY held, effective_priority DESC, highest_share, id) AS position
    FROM lined_up
""")  # noqa: S608 - names of this program
