"""Sweeps, and the jobs that belong to one."""

import sqlalchemy as sa
from alembic import op

revision = "f8d4c3a6ab44"
down_revision = "e7c3b2f59a33"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "sweeps",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=True),
        sa.Column("request", sa.JSON(), nullable=False),
        sa.Column("points", sa.Integer(), nullable=False),
        sa.Column(
            "created_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column("cancelled_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_sweeps_user_id_users")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_sweeps")),
    )
    op.create_index("ix_sweeps_open", "sweeps", ["id"], postgresql_where=sa.text("ended_at IS NULL"))
    op.create_index("ix_sweeps_user_id_id", "sweeps", ["user_id", "id"])
    op.add_column("jobs", sa.Column("sweep_id", sa.Uuid(), nullable=True))
    op.create_foreign_key(op.f("fk_jobs_sweep_id_sweeps"), "jobs", "sweeps", ["sweep_id"], ["id"])
    op.create_index("ix_jobs_sweep_id_id", "jobs", ["sweep_id", "id"], postgresql_where=sa.text("sweep_id IS NOT NULL"))
    op.create_table(
        "sweep_points",
        sa.Column("sweep_id", sa.Uuid(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("parameters", sa.JSON(), nullable=False),
        sa.Column("job_id", sa.Uuid(), nullable=True),
        sa.Column("refusal", sa.Text(), nullable=True),
        sa.CheckConstraint("(job_id IS NULL) <> (refusal IS NULL)", name=op.f("ck_sweep_points_job_or_refusal")),
        sa.ForeignKeyConstraint(
            ["sweep_id"], ["sweeps.id"], name=op.f("fk_sweep_points_sweep_id_sweeps"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_sweep_points_job_id_jobs"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("sweep_id", "number", name=op.f("pk_sweep_points")),
        sa.UniqueConstraint("job_id", name=op.f("uq_sweep_points_job_id")),
    )


def downgrade() -> None:
    op.drop_table("sweep_points")
    op.drop_index("ix_jobs_sweep_id_id", "jobs")
    op.drop_constraint(op.f("fk_jobs_sweep_id_sweeps"), "jobs")
    op.drop_column("jobs", "sweep_id")
    op.drop_table("sweeps")
