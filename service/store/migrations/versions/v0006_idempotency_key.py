"""The name that a client gave to its submission, so that sending it again makes no second job."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """To this revision."""
    op.add_column("jobs", sa.Column("idempotency_key", sa.String(200)))
    op.create_index("ix_jobs_owner_idempotency_key", "jobs", ["owner", "idempotency_key"], unique=True)


def downgrade() -> None:
    """From this revision."""
    op.drop_index("ix_jobs_owner_idempotency_key", "jobs")
    with op.batch_alter_table("jobs") as table:
        table.drop_column("idempotency_key")
