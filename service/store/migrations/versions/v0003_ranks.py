"""The rank of every matrix of a candidate: a genome alone tells it only to who knows the job's constraints."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """To this revision; candidates scored before have none."""
    op.add_column("candidates", sa.Column("ranks", sa.JSON(none_as_null=True)))


def downgrade() -> None:
    """From this revision."""
    with op.batch_alter_table("candidates") as table:
        table.drop_column("ranks")
