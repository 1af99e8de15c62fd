"""What migrations do to the specs of jobs that are stored already."""

from collections.abc import Callable, Mapping
from typing import Any

import sqlalchemy as sa
from alembic import op

Spec = dict[str, Any]


def change(of: Callable[[Spec], Spec]) -> None:
    """Puts in place of every job's spec what a function makes of it."""
    connection = op.get_bind()
    jobs = sa.table("jobs", sa.column("id", sa.String()), sa.column("spec", sa.JSON()))
    for id, spec in connection.execute(sa.select(jobs.c.id, jobs.c.spec)).all():
        if (changed := of(spec)) != spec:
            connection.execute(jobs.update().where(jobs.c.id == id).values(spec=changed))


def keep_unpropagated(*kinds: str) -> None:
    """Says of `task` jobs for such objectives that errors are not propagated, where they said nothing of it."""

    def kept(spec: Spec) -> Spec:
        projection: Mapping[str, Any] = spec["projection"]
        unsaid = projection["method"] == "task" and projection.get("propagated_shares") is None
        if not unsaid or spec["objective"]["kind"] not in kinds:
            return spec
        return {**spec, "projection": {**projection, "propagated_shares": []}}

    change(kept)
