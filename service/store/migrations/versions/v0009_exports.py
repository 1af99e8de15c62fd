"""Exports: small jobs that make the model of a candidate of another job; and an index to find a job's front by."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

FRONT = "ix_candidates_job_id_examples_kept_share_loss_nats_kl_nats"


def upgrade() -> None:
    """To this revision."""
    op.add_column("jobs", sa.Column("parent", sa.String(32)))
    op.add_column("jobs", sa.Column("export", sa.JSON()))
    op.create_index("ix_jobs_parent_id", "jobs", ["parent", "id"])
    op.create_index(FRONT, "candidates", ["job_id", "examples", "kept_share", "loss_nats", "kl_nats"])


def downgrade() -> None:
    """From this revision."""
    op.drop_index(FRONT, "candidates")
    op.drop_index("ix_jobs_parent_id", "jobs")
    with op.batch_alter_table("jobs") as table:
        table.drop_column("export")
        table.drop_column("parent")
