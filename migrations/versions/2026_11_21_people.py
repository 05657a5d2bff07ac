"""Users, their tokens, the audit of changes, and who owns a job."""

from datetime import datetime

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "c5a1f0d37e11"
down_revision = "b7d2e9a41c63"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "users",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        _now("created_at"),
        sa.Column("disabled_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("role IN ('member', 'admin')", name=op.f("ck_users_role")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_users")),
        sa.UniqueConstraint("name", name=op.f("uq_users_name")),
    )
    op.create_table(
        "tokens",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("scopes", postgresql.ARRAY(sa.Text()), nullable=False),
        _now("created_at"),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_used_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_tokens_user_id_users")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tokens")),
    )
    op.create_index(op.f("ix_tokens_user_id_id"), "tokens", ["user_id", "id"])
    op.create_table(
        "audit",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        _now("at"),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("token_id", sa.Text(), nullable=True),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("request_id", sa.Text(), nullable=False),
        sa.Column("detail", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.ForeignKeyConstraint(["token_id"], ["tokens.id"], name=op.f("fk_audit_token_id_tokens")),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_audit_user_id_users")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit")),
    )
    op.create_index(op.f("ix_audit_user_id_id"), "audit", ["user_id", "id"])
    op.create_index(op.f("ix_audit_subject_id"), "audit", ["subject", "id"])
    _give_jobs_an_owner()


def _give_jobs_an_owner() -> None:
    """Jobs that nobody's name stands on are the first admin's, who is made where there are any."""
    op.add_column("jobs", sa.Column("user_id", sa.Uuid(), nullable=True))
    op.execute(
        "INSERT INTO users (id, name, role) SELECT gen_random_uuid(), 'admin', 'admin' WHERE EXISTS (SELECT FROM jobs)"
    )
    op.execute("UPDATE jobs SET user_id = users.id FROM users WHERE users.name = 'admin'")
    op.alter_column("jobs", "user_id", nullable=False)
    op.create_foreign_key(op.f("fk_jobs_user_id_users"), "jobs", "users", ["user_id"], ["id"])
    op.create_index("ix_jobs_user_id_id", "jobs", ["user_id", "id"])


def downgrade() -> None:
    op.drop_index("ix_jobs_user_id_id", table_name="jobs")
    op.drop_constraint(op.f("fk_jobs_user_id_users"), "jobs", type_="foreignkey")
    op.drop_column("jobs", "user_id")
    op.drop_table("audit")
    op.drop_table("tokens")
    op.drop_table("users")


def _now(name: str) -> "sa.Column[datetime]":
    return sa.Column(name, sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False)
