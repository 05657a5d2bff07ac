"""What an attempt did beside moving its job, in one order with the transitions; jobs that are deleted, and their files."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "e91a4b6c70d2"
down_revision = "ed49f80b9f99"
branch_labels = None
depends_on = None


def upgrade() -> None:
    _create_milestones()
    _let_jobs_be_deleted()


def downgrade() -> None:
    for index in ("ix_jobs_deleted", "ix_jobs_ended_with_files"):
        op.drop_index(index, "jobs")
    for column in ("artifacts_removed_at", "deleted_at"):
        op.drop_column("jobs", column)
    op.drop_table("milestones")


def _create_milestones() -> None:
    op.create_table(
        "milestones",
        # One sequence for both tables: a job's events have one order, which a clock that is set back does not change.
        sa.Column("id", sa.BigInteger(), server_default=sa.text("nextval('transitions_id_seq')"), nullable=False),
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=True),
        sa.Column("data", postgresql.JSONB(), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_milestones_job_id_jobs"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_milestones")),
        sa.UniqueConstraint(
            "job_id",
            "attempt",
            "type",
            "epoch",
            name=op.f("uq_milestones_job_id_attempt_type_epoch"),
            postgresql_nulls_not_distinct=True,
        ),
    )
    op.create_index(op.f("ix_milestones_job_id_id"), "milestones", ["job_id", "id"])


def _let_jobs_be_deleted() -> None:
    for name in ("deleted_at", "artifacts_removed_at"):
        op.add_column("jobs", sa.Column(name, sa.DateTime(timezone=True), nullable=True))
    op.create_index("ix_jobs_deleted", "jobs", ["id"], postgresql_where=sa.text("deleted_at IS NOT NULL"))
    op.create_index(
        "ix_jobs_ended_with_files",
        "jobs",
        ["created_at"],
        postgresql_where=sa.text("status IN ('cancelled', 'succeeded', 'failed') AND artifacts_removed_at IS NULL"),
    )
