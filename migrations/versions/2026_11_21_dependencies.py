"""Jobs that wait for others, settled by the database itself; what a job keeps of retries, warm starts, preemption."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "dc38e7eaef88"
down_revision = "cb27f6d9de77"
branch_labels = None
depends_on = None

# Whoever stores a job has locked those that it needs, by models/references.py: none of them ends in between.
_WRITE_DEPENDENCIES = """
CREATE FUNCTION write_dependencies() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO dependencies (job_id, needs_id)
    SELECT DISTINCT NEW.id, needed::uuid FROM jsonb_array_elements_text(NEW.spec -> 'depends_on') AS needed;
    RETURN NULL;
END
$$
"""

# In the transaction that ends a job, whoever ends it. Dependents are locked in the order of their ids, so that two jobs
# that end at once do not wait for each other; they are counted by a statement of its own, which sees what the other one
# has committed by then. All that cannot run any more fails in one step, not job by job: a chain may be long.
_SETTLE_DEPENDENTS = """
CREATE FUNCTION settle_dependents() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    done uuid[];
    lost uuid[];
    waiting uuid[];
    doomed uuid[];
BEGIN
    SELECT array_agg(job_id) FILTER (WHERE to_status = 'succeeded'),
        array_agg(job_id) FILTER (WHERE to_status IN ('failed', 'cancelled'))
    INTO done, lost FROM moves WHERE to_status IN ('succeeded', 'failed', 'cancelled');

    IF EXISTS (SELECT FROM dependencies WHERE needs_id = ANY (done)) THEN
        waiting := ARRAY(
            SELECT jobs.id FROM jobs
            WHERE id IN (SELECT job_id FROM dependencies WHERE needs_id = ANY (done))
                AND status IN ('queued', 'paused') AND unmet > 0
            ORDER BY id FOR NO KEY UPDATE
        );
        UPDATE jobs SET unmet = cardinality(needs.ids), message = CASE
                WHEN status <> 'queued' THEN message
                WHEN cardinality(needs.ids) > 1
                    THEN format('Waits for job %s and %s more.', needs.ids[1], cardinality(needs.ids) - 1)
                WHEN cardinality(needs.ids) = 1 THEN format('Waits for job %s.', needs.ids[1])
                WHEN device = 'cuda' THEN 'Waits for a worker with a GPU.'
                ELSE 'Waits for a worker.'
            END, queued_at = CASE WHEN cardinality(needs.ids) = 0 THEN clock_timestamp() ELSE queued_at END
        FROM (
            SELECT dependent AS id, ARRAY(
                SELECT needs_id FROM dependencies JOIN jobs AS needed ON needed.id = needs_id
                WHERE job_id = dependent AND needed.status <> 'succeeded' AND needed.id <> ALL (done)
                ORDER BY needs_id
            ) AS ids
            FROM unnest(waiting) AS dependent
        ) AS needs
        WHERE jobs.id = needs.id;
        PERFORM pg_notify('trainyard_jobs', dependent::text) FROM unnest(waiting) AS dependent;
    END IF;

    IF EXISTS (SELECT FROM dependencies WHERE needs_id = ANY (lost)) THEN
        doomed := ARRAY(
            WITH RECURSIVE cut_off AS (
                SELECT unnest(lost) AS id
                UNION
                SELECT jobs.id FROM cut_off JOIN dependencies ON needs_id = cut_off.id JOIN jobs ON jobs.id = job_id
                WHERE status IN ('queued', 'paused') AND unmet > 0
            )
            SELECT jobs.id FROM jobs
            WHERE id IN (SELECT id FROM cut_off) AND id <> ALL (lost) AND status IN ('queued', 'paused') AND unmet > 0
            ORDER BY id FOR NO KEY UPDATE
        );
        INSERT INTO transitions (job_id, from_status, to_status, reason, message, attempt)
        SELECT id, status, 'failed', 'dependency_failed', format(
            'Job %s, which it depends on, did not succeed.', (
                SELECT needs_id FROM dependencies
                WHERE job_id = jobs.id AND (needs_id = ANY (lost) OR needs_id = ANY (doomed)) ORDER BY needs_id LIMIT 1
            )
        ), attempt
        FROM jobs WHERE id = ANY (doomed) ORDER BY id;
        UPDATE jobs SET status = 'failed', reason = 'dependency_failed', message = (
            SELECT message FROM transitions WHERE job_id = jobs.id ORDER BY id DESC LIMIT 1
        ) WHERE id = ANY (doomed);
        PERFORM pg_notify('trainyard_jobs', dependent::text) FROM unnest(doomed) AS dependent;
    END IF;
    RETURN NULL;
END
$$
"""


def upgrade() -> None:
    for name in ("trained_since", "timed_since"):
        op.add_column("jobs", sa.Column(name, sa.Integer(), server_default=sa.text("1"), nullable=False))
    op.add_column("jobs", sa.Column("initial_weights", postgresql.JSONB(), nullable=True))
    op.add_column("jobs", sa.Column("yields_to", sa.Uuid(), nullable=True))
    op.execute(_WRITE_DEPENDENCIES)
    op.execute(
        "CREATE TRIGGER write_dependencies AFTER INSERT ON jobs FOR EACH ROW "
        "WHEN (NEW.spec -> 'depends_on' <> '[]') EXECUTE FUNCTION write_dependencies()"
    )
    op.execute(_SETTLE_DEPENDENTS)
    op.execute(
        "CREATE TRIGGER settle_dependents AFTER INSERT ON transitions REFERENCING NEW TABLE AS moves "
        "FOR EACH STATEMENT EXECUTE FUNCTION settle_dependents()"
    )


def downgrade() -> None:
    op.execute("DROP TRIGGER settle_dependents ON transitions")
    op.execute("DROP FUNCTION settle_dependents()")
    op.execute("DROP TRIGGER write_dependencies ON jobs")
    op.execute("DROP FUNCTION write_dependencies()")
    for column in ("yields_to", "initial_weights", "timed_since", "trained_since"):
        op.drop_column("jobs", column)
