"""The last and the best epoch of each job, so that lists are filtered and sorted by them."""

import sqlalchemy as sa
from alembic import op

revision = "d6b2a1e48f22"
down_revision = "c5a1f0d37e11"
branch_labels = None
depends_on = None

_METRICS = ("train_loss", "train_accuracy", "validation_loss", "validation_accuracy", "learning_rate", "seconds")


def upgrade() -> None:
    op.create_table(
        "scores",
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("revision", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("last_epoch", sa.Integer(), nullable=True),
        *(sa.Column(f"last_{metric}", sa.Double(), nullable=True) for metric in _METRICS),
        sa.Column("best_epoch", sa.Integer(), nullable=True),
        *(sa.Column(f"best_{metric}", sa.Double(), nullable=True) for metric in _METRICS),
        sa.Column("best_merit", sa.Double(), nullable=True),
        sa.Column("test_accuracy", sa.Double(), nullable=True),
        sa.Column("test_loss", sa.Double(), nullable=True),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_scores_job_id_jobs"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", name=op.f("pk_scores")),
    )
    _fill()
    op.create_index(
        "ix_scores_best_validation_accuracy",
        "scores",
        [sa.text("best_validation_accuracy DESC NULLS LAST"), sa.text("job_id DESC")],
    )
    op.create_index("ix_jobs_created_at_id", "jobs", ["created_at", "id"])
    op.create_index("ix_jobs_dataset_id", "jobs", [sa.text("((spec -> 'dataset') ->> 'name')"), "id"])
    op.create_index("ix_jobs_network_id", "jobs", [sa.text("((spec -> 'network') ->> 'name')"), "id"])
    for field in ("tags", "metadata"):
        expression = sa.text(f"(spec -> '{field}') jsonb_path_ops")
        op.create_index(f"ix_jobs_{field}", "jobs", [expression], postgresql_using="gin")


def downgrade() -> None:
    for field in ("metadata", "tags", "network_id", "dataset_id", "created_at_id"):
        op.drop_index(f"ix_jobs_{field}", table_name="jobs")
    op.drop_table("scores")


def _fill() -> None:
    """Score the jobs that there are, by the rules of models/scores.py as they are today."""
    last = ", ".join(_finite(metric) for metric in _METRICS)
    merit = "coalesce(validation_accuracy, train_accuracy, -coalesce(validation_loss, train_loss))"
    named = [f"{which}_{figure}" for which in ("last", "best") for figure in ("epoch", *_METRICS)]
    op.execute(
        f"""
        INSERT INTO scores (job_id, revision, {", ".join(named)}, best_merit, test_accuracy, test_loss)
        SELECT jobs.id, counted.revision, last.*, best.*,
            (results.body #>> '{{accuracy,test}}')::float8, (results.body #>> '{{loss,test}}')::float8
        FROM jobs
        CROSS JOIN LATERAL (SELECT count(*) AS revision FROM epochs WHERE job_id = jobs.id) AS counted
        LEFT JOIN LATERAL (
            SELECT epoch, {last} FROM epochs WHERE job_id = jobs.id ORDER BY epoch DESC LIMIT 1
        ) AS last ON true
        LEFT JOIN LATERAL (
            SELECT epoch, {last}, {_finite(merit)} AS merit FROM epochs WHERE job_id = jobs.id AND epoch > 0
            ORDER BY merit DESC NULLS LAST, epoch LIMIT 1
        ) AS best ON true
        LEFT JOIN results ON results.job_id = jobs.id
        WHERE counted.revision > 0 OR results.job_id IS NOT NULL
        """  # noqa: S608 - names of this file
    )


def _finite(value: str) -> str:
    return f"CASE WHEN {value} > '-Infinity' AND {value} < 'Infinity' THEN {value} END"
