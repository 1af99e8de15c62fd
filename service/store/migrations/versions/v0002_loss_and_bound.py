"""A candidate's loss, which the search minimises, and the upper bound of its drop."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """To this revision."""
    op.add_column("candidates", sa.Column("loss_nats", sa.Double()))
    op.add_column("candidates", sa.Column("drop_bound", sa.Double()))


def downgrade() -> None:
    """From this revision."""
    with op.batch_alter_table("candidates") as table:
        table.drop_column("drop_bound")
        table.drop_column("loss_nats")
