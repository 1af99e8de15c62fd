"""Deletion of old events and of records of deleted jobs."""

from collections.abc import Collection
from datetime import timedelta

from sqlalchemy import delete, select

from ranksieve.service.job.job import JobState
from ranksieve.service.store.base import Base
from ranksieve.service.store.schema import EventRow, JobRow, RemovalRow

_TERMINAL = tuple(state.value for state in JobState if state.terminal)


class Cleanup:
    """Deletes old events and records of deleted jobs."""

    def __init__(self, base: Base) -> None:
        self._base = base

    def forget_events(self, older_than: timedelta) -> int:
        """Delete events of jobs that ended for good before this; return the number.

        The next `seq` of a job stays. Crashed jobs keep their events, because they may be resumed.
        """
        with self._base.database.writing() as session:
            ended = select(JobRow.id).where(
                JobRow.state.in_(_TERMINAL),
                JobRow.finished_at < self._base.clock(session) - older_than,
            )
            gone = session.execute(delete(EventRow).where(EventRow.job_id.in_(ended)))
            return int(getattr(gone, "rowcount", 0))

    def removals(self) -> list[str]:
        """Return the deleted jobs that a server may still have files of."""
        with self._base.database.reading() as session:
            return list(session.scalars(select(RemovalRow.job_id).order_by(RemovalRow.job_id)))

    def forget_removals(self, older_than: timedelta, still_there: Collection[str]) -> None:
        """Delete records of jobs deleted before this, except of those with files left."""
        with self._base.database.writing() as session:
            old = select(RemovalRow.job_id).where(
                RemovalRow.deleted_at < self._base.clock(session) - older_than
            )
            gone = set(session.scalars(old)).difference(still_there)
            for id in gone:
                session.execute(delete(RemovalRow).where(RemovalRow.job_id == id))
