"""The labels of jobs in a table of their own, where they are found without reading every spec."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

LONGEST = 200


def upgrade() -> None:
    """To this revision; the labels of the jobs there are are copied out of their specs."""
    labels = op.create_table(
        "labels",
        sa.Column("job_id", sa.String(32), nullable=False),
        sa.Column("name", sa.String(LONGEST), nullable=False),
        sa.Column("value", sa.String(LONGEST), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_labels_job_id"),
        sa.PrimaryKeyConstraint("job_id", "name", name="pk_labels"),
    )
    op.create_index("ix_labels_name_value_job_id", "labels", ["name", "value", "job_id"])
    jobs = sa.table("jobs", sa.column("id", sa.String()), sa.column("spec", sa.JSON()))
    connection = op.get_bind()
    for id, spec in connection.execute(sa.select(jobs.c.id, jobs.c.spec)).all():
        for name, value in spec.get("labels", {}).items():
            if "\0" not in name + value and max(len(name), len(value)) <= LONGEST:
                connection.execute(labels.insert().values(job_id=id, name=name, value=value))


def downgrade() -> None:
    """From this revision."""
    op.drop_table("labels")
