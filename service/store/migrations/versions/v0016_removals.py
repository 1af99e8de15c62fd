"""The deleted jobs whose files are still to be removed."""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """To this revision."""
    op.create_table(
        "removals",
        sa.Column("job_id", sa.String(32), nullable=False),
        sa.PrimaryKeyConstraint("job_id", name="pk_removals"),
    )


def downgrade() -> None:
    """From this revision."""
    op.drop_table("removals")
