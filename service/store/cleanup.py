"""What the store forgets in time: events of jobs that ended long ago, and which deleted jobs may have files."""

from collections.abc import Collection
from datetime import timedelta

from sqlalchemy import delete, select

from ranksieve.service.job.job import JobState
from ranksieve.service.store.base import Base
from ranksieve.service.store.schema import EventRow, JobRow, RemovalRow

_TERMINAL = tuple(state.value for state in JobState if state.terminal)


class Cleanup:
    """Forgets old events and deleted jobs."""

    def __init__(self, base: Base) -> None:
        self._base = base

    def forget_events(self, older_than: timedelta) -> int:
        """Deletes the events of jobs that ended for good longer ago than this; returns how many.

        A job's next `seq` stays, and so does what a crashed job knows of itself, for it may be resumed.
        """
        with self._base.database.writing() as session:
            ended = select(JobRow.id).where(
                JobRow.state.in_(_TERMINAL),
                JobRow.finished_at < self._base.clock(session) - older_than,
            )
            gone = session.execute(delete(EventRow).where(EventRow.job_id.in_(ended)))
            return int(getattr(gone, "rowcount", 0))

    def removals(self) -> list[str]:
        """The deleted jobs that a server may still have files of."""
        with self._base.database.reading() as session:
            return list(session.scalars(select(RemovalRow.job_id).order_by(RemovalRow.job_id)))

    def forget_removals(self, older_than: timedelta, still_there: Collection[str]) -> None:
        """Forgets the jobs that were deleted longer ago than this for good, but those that have files still."""
        with self._base.database.writing() as session:
            old = select(RemovalRow.job_id).where(
                RemovalRow.deleted_at < self._base.clock(session) - older_than
            )
            gone = set(session.scalars(old)).difference(still_there)
            for id in gone:
                session.execute(delete(RemovalRow).where(RemovalRow.job_id == id))
