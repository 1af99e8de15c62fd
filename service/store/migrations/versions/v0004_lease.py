"""A job's lease: how often it was claimed, and until when its holder has it."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """To this revision; a job that was cut off is free to be claimed."""
    op.add_column("jobs", sa.Column("epoch", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("jobs", sa.Column("leased_until", sa.DateTime(timezone=True)))


def downgrade() -> None:
    """From this revision."""
    with op.batch_alter_table("jobs") as table:
        table.drop_column("leased_until")
        table.drop_column("epoch")
