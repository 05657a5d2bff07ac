"""Epochs of a regression have no accuracy."""

import sqlalchemy as sa
from alembic import op

revision = "4c1f0a7be2d9"
down_revision = "8d13e45d62ef"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.alter_column("epochs", "train_accuracy", existing_type=sa.Double(), nullable=True)


def downgrade() -> None:
    op.execute("DELETE FROM jobs WHERE id IN (SELECT job_id FROM epochs WHERE train_accuracy IS NULL)")
    op.alter_column("epochs", "train_accuracy", existing_type=sa.Double(), nullable=False)
