"""What a job's network predicts of each test sample, and the part of a result that many are compared by."""

import sqlalchemy as sa
from alembic import op

revision = "e7c3b2f59a33"
down_revision = "d6b2a1e48f22"
branch_labels = None
depends_on = None

_ESSENTIALS = """
    UPDATE results SET essentials = (
        (body::jsonb - '{curves,confusion_matrix,classification_report,diagnosis,spec}'::text[])
        #- '{replicas,curves}'
    )::json
"""


def upgrade() -> None:
    op.create_table(
        "predictions",
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("samples", sa.Integer(), nullable=False),
        sa.Column("samples_digest", sa.Text(), nullable=False),
        sa.Column("indices", sa.ARRAY(sa.Integer()), nullable=True),
        sa.Column("labels", sa.ARRAY(sa.SmallInteger()), nullable=True),
        sa.Column("predictions", sa.ARRAY(sa.SmallInteger()), nullable=True),
        sa.Column("probabilities", sa.ARRAY(sa.REAL()), nullable=True),
        sa.Column("targets", sa.ARRAY(sa.Double()), nullable=True),
        sa.Column("estimates", sa.ARRAY(sa.Double()), nullable=True),
        sa.Column("correct", sa.LargeBinary(), nullable=True),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_predictions_job_id_jobs"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", name=op.f("pk_predictions")),
    )
    op.add_column("results", sa.Column("essentials", sa.JSON(), nullable=True))
    op.execute(_ESSENTIALS)
    op.alter_column("results", "essentials", nullable=False)


def downgrade() -> None:
    op.drop_column("results", "essentials")
    op.drop_table("predictions")
