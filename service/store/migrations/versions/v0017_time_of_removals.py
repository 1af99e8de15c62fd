"""When each deleted job was: servers that keep files of their own remove theirs until that is long ago."""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """To this revision; of those from before it counts from now."""
    with op.batch_alter_table("removals") as table:
        table.add_column(
            sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now())
        )


def downgrade() -> None:
    """From this revision."""
    op.drop_column("removals", "deleted_at")
