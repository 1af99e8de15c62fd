"""Front of every job as it grew, with the generations of each scoring on it.

The front is kept up to date while scorings are saved: the few of a generation are compared with the short front.
Computing it later would have to sort all scorings. Commits nothing.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, field

from sqlalchemy import Select, insert, or_, select, update
from sqlalchemy.orm import Session

from ranksieve.service.store.schema import CandidateRow, FrontRow


@dataclass(kw_only=True, slots=True)
class Front:
    """Scorings of rising size and falling loss, by id; of equal ones the first."""

    ids: list[int] = field(default_factory=list)
    kept_shares: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)

    def join(self, id: int, kept_share: float, loss: float) -> list[int] | None:
        """Add a scoring; return the ids it beats, or None if it is beaten itself."""
        smaller = bisect_right(self.kept_shares, kept_share)
        if smaller and self.losses[smaller - 1] <= loss:
            return None
        start = stop = bisect_left(self.kept_shares, kept_share)
        while stop < len(self.ids) and self.losses[stop] >= loss:
            stop += 1
        beaten = self.ids[start:stop]
        self.ids[start:stop], self.kept_shares[start:stop], self.losses[start:stop] = (
            [id],
            [kept_share],
            [loss],
        )
        return beaten


def extend(session: Session, job_id: str, generation: int, scorings: Iterable[CandidateRow]) -> None:
    """Add the scorings of a generation to their job's front, in order of their ids.

    Args:
        session: Holds the job's row.
        job_id: The job.
        generation: The generation's number.
        scorings: Its scorings, with their ids.
    """
    points = [
        (row.id, row.kept_share, row.kl_nats if row.loss_nats is None else row.loss_nats) for row in scorings
    ]
    if not points:
        return
    front, joined, left = _front_of(session, job_id), set[int](), set[int]()
    for id, kept_share, loss in points:
        beaten = None if loss is None else front.join(id, kept_share, loss)
        if beaten is not None:
            joined.add(id)
            left.update(beaten)
    if stood := left - joined:
        gone = update(FrontRow).where(FrontRow.candidate_id.in_(stood))
        session.execute(gone.values(until=generation))
    # A scoring beaten within its generation never appears.
    stay = [
        {
            "candidate_id": id,
            "job_id": job_id,
            "kept_share": kept_share,
            "loss_nats": loss,
            "since": generation,
        }
        for id, kept_share, loss in points
        if id in joined - left
    ]
    if stay:
        session.execute(insert(FrontRow), stay)


def _front_of(session: Session, job_id: str) -> Front:
    members = select(FrontRow.candidate_id, FrontRow.kept_share, FrontRow.loss_nats)
    present = members.where(FrontRow.job_id == job_id, FrontRow.until.is_(None)).order_by(FrontRow.kept_share)
    front = Front()
    for id, kept_share, loss in session.execute(present):
        front.ids.append(id)
        front.kept_shares.append(kept_share)
        front.losses.append(loss)
    return front


def members(job_id: str, *, generation: int | None = None, last: int | None = None) -> Select[int]:
    """Return a query of the ids of a job's front, smallest first.

    Args:
        job_id: The job.
        generation: Limits the ids to those that this generation added; None: all.
        last: Chooses the front after this generation; None: the present one.
    """
    query = select(FrontRow.candidate_id).where(FrontRow.job_id == job_id).order_by(FrontRow.kept_share)
    if generation is not None:
        query = query.where(FrontRow.since == generation)
    if last is None:
        return query.where(FrontRow.until.is_(None))
    return query.where(FrontRow.since <= last, or_(FrontRow.until.is_(None), FrontRow.until > last))
