"""Jobs of before errors were propagated stay without: their scorings are of factors that were made so."""

from collections.abc import Callable
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

FIELD = "propagated_shares"

Projection = dict[str, Any]


def upgrade() -> None:
    """To this revision."""
    _change(lambda projection: projection if FIELD in projection else _without(projection))


def downgrade() -> None:
    """From this revision, whose specs earlier ones do not understand."""
    _change(lambda projection: {name: value for name, value in projection.items() if name != FIELD})


def _without(projection: Projection) -> Projection:
    """Other methods than `task` are not even to say so."""
    return {**projection, FIELD: [] if projection["method"] == "task" else None}


def _change(of: Callable[[Projection], Projection]) -> None:
    connection = op.get_bind()
    jobs = sa.table("jobs", sa.column("id", sa.String()), sa.column("spec", sa.JSON()))
    for id, spec in connection.execute(sa.select(jobs.c.id, jobs.c.spec)).all():
        changed = {**spec, "projection": of(spec["projection"])}
        if changed != spec:
            connection.execute(jobs.update().where(jobs.c.id == id).values(spec=changed))
