"""What a list shows of a sweep stands in columns of its own, beside the whole request with all its points."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "c83f5d20be71"
down_revision = "ba16e5c8cd66"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("sweeps", _from_request("objective", sa.Text(), "request ->> 'objective'"))
    op.add_column("sweeps", _from_request("direction", sa.Text(), "request ->> 'direction'"))
    op.add_column("sweeps", _from_request("max_concurrent", sa.Integer(), "(request ->> 'max_concurrent')::integer"))
    op.add_column("sweeps", _from_request("early_stop", sa.JSON(), "request -> 'early_stop'", nullable=True))


def downgrade() -> None:
    for name in ("early_stop", "max_concurrent", "direction", "objective"):
        op.drop_column("sweeps", name)


def _from_request(
    name: str, kind: "sa.types.TypeEngine[Any]", text: str, *, nullable: bool = False
) -> "sa.Column[Any]":
    return sa.Column(name, kind, sa.Computed(text, persisted=True), nullable=nullable)
