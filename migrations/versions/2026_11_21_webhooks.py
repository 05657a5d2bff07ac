"""Webhooks and what was delivered to them."""

from datetime import datetime

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "a9e5d4b7bc55"
down_revision = "f8d4c3a6ab44"
branch_labels = None
depends_on = None

# The lock: a webhook that is being deleted is passed over, where a foreign key would fail the whole change of status.
# Per statement, not per row: 500 jobs of a batch are one join. What no webhook wants costs a look at an empty table.
_WRITE_DELIVERIES = """
CREATE FUNCTION write_deliveries() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO deliveries (webhook_id, event, job_id, transition_id)
    SELECT webhooks.id, 'job.' || moves.to_status, jobs.id, moves.id
    FROM moves
    JOIN jobs ON jobs.id = moves.job_id
    JOIN webhooks ON webhooks.enabled AND 'job.' || moves.to_status = ANY (webhooks.events)
    JOIN users ON users.id = webhooks.user_id AND users.disabled_at IS NULL
    WHERE (jobs.user_id = users.id OR (webhooks.scope = 'lab' AND users.role = 'admin'))
        AND (webhooks.tag IS NULL OR jobs.spec->'tags' ? webhooks.tag)
    ORDER BY moves.id
    FOR KEY SHARE OF webhooks;
    RETURN NULL;
END
$$
"""


def upgrade() -> None:
    op.create_table(
        "webhooks",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("events", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("tag", sa.Text(), nullable=True),
        sa.Column("description", sa.Text(), nullable=True),
        sa.Column("secret", sa.Text(), nullable=False),
        sa.Column("enabled", sa.Boolean(), nullable=False),
        sa.Column("disabled_reason", sa.Text(), nullable=True),
        sa.Column("given_up", sa.Integer(), nullable=False),
        _time("created_at"),
        sa.CheckConstraint("scope IN ('own', 'lab')", name=op.f("ck_webhooks_scope")),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_webhooks_user_id_users")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_webhooks")),
    )
    op.create_index(op.f("ix_webhooks_user_id_id"), "webhooks", ["user_id", "id"])
    _create_deliveries()
    op.create_table(
        "delivery_attempts",
        sa.Column("delivery_id", sa.BigInteger(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("status_code", sa.Integer(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("answer", sa.Text(), nullable=True),
        sa.Column("seconds", sa.Double(), nullable=False),
        _time("at"),
        sa.ForeignKeyConstraint(
            ["delivery_id"],
            ["deliveries.id"],
            name=op.f("fk_delivery_attempts_delivery_id_deliveries"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("delivery_id", "number", name=op.f("pk_delivery_attempts")),
    )
    op.execute(_WRITE_DELIVERIES)
    op.execute(
        "CREATE TRIGGER write_deliveries AFTER INSERT ON transitions REFERENCING NEW TABLE AS moves "
        "FOR EACH STATEMENT EXECUTE FUNCTION write_deliveries()"
    )


def downgrade() -> None:
    op.execute("DROP TRIGGER write_deliveries ON transitions")
    op.execute("DROP FUNCTION write_deliveries()")
    op.drop_table("delivery_attempts")
    op.drop_table("deliveries")
    op.drop_table("webhooks")


def _create_deliveries() -> None:
    op.create_table(
        "deliveries",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("webhook_id", sa.Uuid(), nullable=False),
        sa.Column("event", sa.Text(), nullable=False),
        sa.Column("job_id", sa.Uuid(), nullable=True),
        sa.Column("transition_id", sa.BigInteger(), nullable=True),
        sa.Column("status", sa.Text(), server_default="pending", nullable=False),
        _time("due_at"),
        sa.Column("attempts", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("tries_before", sa.Integer(), server_default=sa.text("0"), nullable=False),
        _time("created_at"),
        sa.CheckConstraint("status IN ('pending', 'delivered', 'failed')", name=op.f("ck_deliveries_status")),
        sa.ForeignKeyConstraint(
            ["webhook_id"], ["webhooks.id"], name=op.f("fk_deliveries_webhook_id_webhooks"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_deliveries_job_id_jobs"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_deliveries")),
    )
    op.create_index(op.f("ix_deliveries_webhook_id_id"), "deliveries", ["webhook_id", "id"])
    op.create_index(
        "ix_deliveries_pending",
        "deliveries",
        ["webhook_id", "job_id", "id"],
        postgresql_where=sa.text("status = 'pending'"),
    )
    op.create_index(op.f("ix_deliveries_job_id"), "deliveries", ["job_id"])
    op.create_index(op.f("ix_deliveries_created_at"), "deliveries", ["created_at"])


def _time(name: str) -> "sa.Column[datetime]":
    return sa.Column(name, sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False)
