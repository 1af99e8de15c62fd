"""The front of every job in a table of its own: it need not be found among all scorings whenever somebody asks."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

FOUND_BY = "ix_candidates_job_id_examples_kept_share_loss_nats_kl_nats"
CHUNK = 10_000


def upgrade() -> None:
    """To this revision; the fronts of the jobs there are grow again, scoring by scoring."""
    fronts = op.create_table(
        "fronts",
        sa.Column("candidate_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("job_id", sa.String(32), nullable=False),
        sa.Column("kept_share", sa.Double(), nullable=False),
        sa.Column("loss_nats", sa.Double(), nullable=False),
        sa.Column("since", sa.Integer(), nullable=False),
        sa.Column("until", sa.Integer()),
        sa.ForeignKeyConstraint(["candidate_id"], ["candidates.id"], name="fk_fronts_candidate_id"),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_fronts_job_id"),
        sa.PrimaryKeyConstraint("candidate_id", name="pk_fronts"),
    )
    op.create_index("ix_fronts_job_id_until_kept_share", "fronts", ["job_id", "until", "kept_share"])
    connection = op.get_bind()
    jobs = sa.table("jobs", sa.column("id", sa.String()), sa.column("spec", sa.JSON()))
    specs = connection.execute(sa.select(jobs.c.id, jobs.c.spec))
    for id, examples in [(id, spec["task"]["data"]["sizes"]["search"]) for id, spec in specs]:
        grown = list(_grown(id, _scorings(connection, id, examples)))
        for start in range(0, len(grown), CHUNK):
            connection.execute(fronts.insert(), grown[start : start + CHUNK])
    op.drop_index(FOUND_BY, "candidates")


def _scorings(connection: sa.Connection, job_id: str, examples: int) -> Iterable[Any]:
    names = ("id", "job_id", "generation", "examples", "kept_share", "loss_nats", "kl_nats")
    of = sa.table("candidates", *map(sa.column, names)).c
    loss = sa.func.coalesce(of.loss_nats, of.kl_nats)
    scored = sa.select(of.generation, of.id, of.kept_share, loss).order_by(of.generation, of.id)
    return connection.execute(
        scored.where(of.job_id == job_id, of.examples == examples, loss.is_not(None))
    ).yield_per(CHUNK)


def _grown(job_id: str, scorings: Iterable[Any]) -> Iterator[dict[str, Any]]:
    """Rows of whatever was on the front when its generation was over; see `service.store.fronts`."""
    shares: list[float] = []
    members: list[dict[str, Any]] = []
    for generation, scored in groupby(scorings, key=lambda scoring: scoring[0]):
        left: list[dict[str, Any]] = []
        for _, id, share, loss in scored:
            smaller = bisect_right(shares, share)
            if smaller and members[smaller - 1]["loss_nats"] <= loss:
                continue
            start = stop = bisect_left(shares, share)
            while stop < len(members) and members[stop]["loss_nats"] >= loss:
                stop += 1
            left += members[start:stop]
            row = {"candidate_id": id, "job_id": job_id, "kept_share": share, "loss_nats": loss}
            shares[start:stop], members[start:stop] = [share], [{**row, "since": generation, "until": None}]
        yield from ({**row, "until": generation} for row in left if row["since"] != generation)
    yield from members


def downgrade() -> None:
    """From this revision."""
    op.create_index(FOUND_BY, "candidates", ["job_id", "examples", "kept_share", "loss_nats", "kl_nats"])
    op.drop_table("fronts")
