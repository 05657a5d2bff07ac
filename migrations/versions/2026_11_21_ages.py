"""Ageing counts apart for jobs on GPUs and on the CPU; a weight has a lower bound."""

import sqlalchemy as sa
from alembic import op

revision = "ed49f80b9f99"
down_revision = "dc38e7eaef88"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("shares", sa.Column("cpu_served_at", sa.DateTime(timezone=True), nullable=True))
    op.execute("UPDATE shares SET cpu_served_at = served_at")
    op.execute("UPDATE shares SET weight = 0.001 WHERE weight < 0.001")
    op.drop_constraint(op.f("ck_shares_weight"), "shares")
    op.create_check_constraint(op.f("ck_shares_weight"), "shares", "weight >= 0.001")


def downgrade() -> None:
    op.drop_constraint(op.f("ck_shares_weight"), "shares")
    op.create_check_constraint(op.f("ck_shares_weight"), "shares", "weight > 0")
    op.drop_column("shares", "cpu_served_at")
