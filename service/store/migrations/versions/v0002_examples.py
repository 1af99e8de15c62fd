"""Candidates without `examples`: all are scored on the whole search split."""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Drop the column."""
    op.drop_column("candidates", "examples")
