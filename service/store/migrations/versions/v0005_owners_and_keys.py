"""Whose a job is, and the API keys that tell who is asking."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """To this revision; the jobs there are become the admin's."""
    op.add_column("jobs", sa.Column("owner", sa.String(100), nullable=False, server_default="admin"))
    op.create_index("ix_jobs_owner_id", "jobs", ["owner", "id"])
    op.create_table(
        "api_keys",
        sa.Column("id", sa.String(12), nullable=False),
        sa.Column("owner", sa.String(100), nullable=False),
        sa.Column("scope", sa.String(16), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True)),
        sa.PrimaryKeyConstraint("id", name="pk_api_keys"),
    )


def downgrade() -> None:
    """From this revision."""
    op.drop_table("api_keys")
    op.drop_index("ix_jobs_owner_id", "jobs")
    with op.batch_alter_table("jobs") as table:
        table.drop_column("owner")
