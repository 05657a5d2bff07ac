"""One queue for a whole lab: what jobs ask for, shares of users, workers, paused queues, paces of like jobs."""

import json
from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "cb27f6d9de77"
down_revision = "c83f5d20be71"
branch_labels = None
depends_on = None

_NEW_IN_SPECS = {"queue": "default", "priority": 0, "depends_on": [], "initial_checkpoint": None}
_WHOLE_GPUS = "(exclusive OR gpus > 1 OR gpu_memory_bytes IS NULL)"
_NEW_IN_RESOURCES = {"gpus": 1, "gpu_memory_gb": "auto", "exclusive": False}


def upgrade() -> None:
    _add_columns_to_jobs()
    op.add_column("attempts", sa.Column("gpus", sa.ARRAY(sa.Text()), server_default=sa.text("'{}'"), nullable=False))
    _create_dependencies()
    _create_shares()
    _create_queues()
    _create_workers()
    _create_paces()


def downgrade() -> None:
    for table in ("paces", "workers", "queues", "shares", "dependencies"):
        op.drop_table(table)
    op.drop_column("attempts", "gpus")
    op.drop_index("ix_jobs_line", "jobs")
    op.drop_index("ix_jobs_queued_of_user", "jobs")
    op.drop_index("ix_jobs_reserved_by", "jobs")
    op.drop_index("ix_jobs_queued_alike", "jobs")
    for column in (
        "priority", "device", "gpus", "gpu_memory_bytes", "exclusive", "likeness", "estimated_seconds", "unmet",
        "queued_at", "reserved_by", "reserved_for",
    ):  # fmt: skip
        op.drop_column("jobs", column)
    op.create_index("ix_jobs_queued", "jobs", ["queue", "id"], postgresql_where=sa.text("status = 'queued'"))


def _moment(name: str, *, nullable: bool = False) -> sa.Column[Any]:
    default = None if nullable else sa.text("clock_timestamp()")
    return sa.Column(name, sa.DateTime(timezone=True), server_default=default, nullable=nullable)


def _add_columns_to_jobs() -> None:
    op.add_column("jobs", sa.Column("priority", sa.Integer(), server_default=sa.text("0"), nullable=False))
    op.add_column("jobs", sa.Column("device", sa.Text(), nullable=True))
    op.add_column("jobs", sa.Column("gpus", sa.Integer(), nullable=True))
    op.add_column("jobs", sa.Column("gpu_memory_bytes", sa.BigInteger(), nullable=True))
    op.add_column("jobs", sa.Column("exclusive", sa.Boolean(), server_default=sa.text("false"), nullable=False))
    op.add_column("jobs", sa.Column("likeness", sa.Text(), nullable=True))
    op.add_column("jobs", sa.Column("estimated_seconds", sa.Float(), nullable=True))
    op.add_column("jobs", sa.Column("unmet", sa.Integer(), server_default=sa.text("0"), nullable=False))
    op.add_column("jobs", _moment("queued_at"))
    op.add_column("jobs", sa.Column("reserved_by", sa.Text(), nullable=True))
    op.add_column("jobs", _moment("reserved_for", nullable=True))
    _fill_in_old_jobs()
    for column in ("device", "gpus", "likeness"):
        op.alter_column("jobs", column, nullable=False)
    for column in ("priority", "exclusive", "unmet"):
        op.alter_column("jobs", column, server_default=None)
    op.drop_index("ix_jobs_queued", "jobs")
    op.create_index(
        "ix_jobs_line",
        "jobs",
        ["queue", "device", "gpus", sa.text(_WHOLE_GPUS), "user_id", sa.text("priority DESC"), "id"],
        postgresql_where=sa.text("status = 'queued' AND unmet = 0"),
    )
    op.create_index(
        "ix_jobs_queued_of_user",
        "jobs",
        ["user_id", sa.text("priority DESC"), "id"],
        postgresql_where=sa.text("status = 'queued'"),
    )
    op.create_index("ix_jobs_reserved_by", "jobs", ["reserved_by"], postgresql_where=sa.text("reserved_by IS NOT NULL"))
    op.create_index("ix_jobs_queued_alike", "jobs", ["likeness"], postgresql_where=sa.text("status = 'queued'"))


def _fill_in_old_jobs() -> None:
    connection = op.get_bind()
    connection.execute(
        sa.text(
            "UPDATE jobs SET queued_at = created_at, spec = spec || CAST(:spec AS jsonb) || jsonb_build_object("
            "'resources', (spec -> 'resources') || CAST(:resources AS jsonb))"
        ),
        {"spec": json.dumps(_NEW_IN_SPECS), "resources": json.dumps(_NEW_IN_RESOURCES)},
    )
    # A likeness of its own: nothing was measured of what is like them.
    connection.execute(
        sa.text(
            "UPDATE jobs SET device = spec -> 'resources' ->> 'device', likeness = id::text, "
            "gpus = CASE spec -> 'resources' ->> 'device' WHEN 'cpu' THEN 0 ELSE 1 END"
        )
    )


def _create_dependencies() -> None:
    op.create_table(
        "dependencies",
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("needs_id", sa.Uuid(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_dependencies_job_id_jobs"), ondelete="CASCADE"),
        sa.ForeignKeyConstraint(
            ["needs_id"], ["jobs.id"], name=op.f("fk_dependencies_needs_id_jobs"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("job_id", "needs_id", name=op.f("pk_dependencies")),
    )
    op.create_index(op.f("ix_dependencies_needs_id"), "dependencies", ["needs_id"])


def _create_shares() -> None:
    op.create_table(
        "shares",
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("weight", sa.Float(), server_default=sa.text("1"), nullable=False),
        sa.Column("max_running", sa.Integer(), nullable=True),
        sa.Column("max_queued", sa.Integer(), nullable=True),
        sa.Column("gpu_seconds", sa.Float(), server_default=sa.text("0"), nullable=False),
        sa.Column("cpu_seconds", sa.Float(), server_default=sa.text("0"), nullable=False),
        _moment("as_of"),
        _moment("served_at", nullable=True),
        sa.CheckConstraint("weight > 0", name=op.f("ck_shares_weight")),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_shares_user_id_users"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("user_id", name=op.f("pk_shares")),
    )


def _create_queues() -> None:
    op.create_table(
        "queues",
        sa.Column("name", sa.Text(), nullable=False),
        _moment("paused_at", nullable=True),
        sa.Column("paused_by", sa.Uuid(), nullable=True),
        sa.ForeignKeyConstraint(["paused_by"], ["users.id"], name=op.f("fk_queues_paused_by_users")),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_queues")),
    )


def _create_workers() -> None:
    op.create_table(
        "workers",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("instance", sa.Text(), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("queues", sa.ARRAY(sa.Text()), nullable=False),
        sa.Column("slots", sa.Integer(), nullable=False),
        sa.Column("cores", sa.Integer(), nullable=False),
        sa.Column("processor", sa.Text(), nullable=False),
        sa.Column("memory_bytes", sa.BigInteger(), nullable=False),
        sa.Column("gpus", postgresql.JSONB(), nullable=False),
        sa.Column("load", postgresql.JSONB(), nullable=False),
        sa.Column("lease_seconds", sa.Float(), nullable=False),
        _moment("started_at"),
        _moment("heartbeat_at"),
        _moment("stopped_at", nullable=True),
        _moment("draining_since", nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_workers")),
        sa.UniqueConstraint("name", name=op.f("uq_workers_name")),
    )


def _create_paces() -> None:
    op.create_table(
        "paces",
        sa.Column("likeness", sa.Text(), nullable=False),
        sa.Column("device", sa.Text(), nullable=False),
        sa.Column("epoch_seconds", sa.Float(), nullable=False),
        sa.Column("other_seconds", sa.Float(), nullable=False),
        sa.Column("gpu_memory_bytes", sa.BigInteger(), nullable=True),
        sa.Column("jobs", sa.Integer(), nullable=False),
        _moment("updated_at"),
        sa.PrimaryKeyConstraint("likeness", "device", name=op.f("pk_paces")),
    )
