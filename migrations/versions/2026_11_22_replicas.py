"""Epochs of a job with replicas hold the figures of all of them."""

import sqlalchemy as sa
from alembic import op

revision = "b7d2e9a41c63"
down_revision = "4c1f0a7be2d9"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("epochs", sa.Column("replicas", sa.JSON(), nullable=True))


def downgrade() -> None:
    op.drop_column("epochs", "replicas")
