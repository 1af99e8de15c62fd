"""Jobs of before errors were propagated for a size in bytes or in time stay without.

Their scorings are of factors that were made so.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

FIELD = "propagated_shares"


def upgrade() -> None:
    """To this revision."""
    connection = op.get_bind()
    jobs = sa.table("jobs", sa.column("id", sa.String()), sa.column("spec", sa.JSON()))
    for id, spec in connection.execute(sa.select(jobs.c.id, jobs.c.spec)).all():
        if _would_gain(spec):
            projection = {**spec["projection"], FIELD: []}
            changed = {**spec, "projection": projection}
            connection.execute(jobs.update().where(jobs.c.id == id).values(spec=changed))


def downgrade() -> None:
    """From this revision: an empty list says the same before it."""


def _would_gain(spec: dict[str, Any]) -> bool:
    """Whether nothing was said of it, which has come to mean something else."""
    projection, objective = spec["projection"], spec["objective"]
    unsaid = projection["method"] == "task" and projection.get(FIELD) is None
    return unsaid and objective["kind"] in ("target_bytes", "target_latency")
