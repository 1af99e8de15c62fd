"""What users ask of their jobs besides cancelling, faults of the machine, priorities, outcomes of paused searches."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """To this revision; nothing was asked of the jobs there are, and they come as they came before."""
    for name in ("pause_requested", "stop_requested"):
        op.add_column("jobs", sa.Column(name, sa.Boolean(), nullable=False, server_default=sa.false()))
    for name in ("faults", "priority"):
        op.add_column("jobs", sa.Column(name, sa.Integer(), nullable=False, server_default="0"))
    op.add_column("jobs", sa.Column("submission", sa.String(64)))
    op.create_table(
        "open_outcomes",
        sa.Column("job_id", sa.String(32), nullable=False),
        sa.Column("outcomes", sa.JSON(none_as_null=True), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_open_outcomes_job_id"),
        sa.PrimaryKeyConstraint("job_id", name="pk_open_outcomes"),
    )


def downgrade() -> None:
    """From this revision."""
    op.drop_table("open_outcomes")
    with op.batch_alter_table("jobs") as table:
        for name in ("submission", "priority", "faults", "stop_requested", "pause_requested"):
            table.drop_column(name)
