"""Who runs a job: a server claims it, keeps renewing its lease, and gives it up or loses it.

Once the lease has run out, another server may claim the job: that raises the job's epoch, and whatever the former
holder, which may only have been slow, writes from then on is refused.
"""

from collections.abc import Collection
from datetime import timedelta

from sqlalchemy import case, or_, select, update

from ranksieve.service.job.job import Job, JobError, JobState
from ranksieve.service.store import mapping, retries
from ranksieve.service.store.base import Base
from ranksieve.service.store.schema import JobRow, WebhookRow

LEASE_S = 30.0
"""So long a server that falls silent keeps its job, in seconds."""

_INTERRUPTED = tuple(state for state in JobState if state.interruptible)


class Claims:
    """Hands jobs to the servers that run them, and takes them back."""

    def __init__(self, base: Base) -> None:
        self._base = base

    def claim_next(self, lease_s: float = LEASE_S, *, besides: Collection[str] = ()) -> Job | None:
        """The next job to run, moved to validating: of the highest priority, one cut off, an export, or the oldest.

        A job whose servers fell silent `FAULTS` times in a row, without saving a generation, crashes; one that is to be
        cancelled or paused is.

        Args:
            lease_s: So long the job is the caller's, in seconds, if the lease is not renewed.
            besides: Ids of jobs that the caller runs: it takes none of them over, however long it was held up.

        Returns:
            The job, with the epoch that the caller's writes have to show; None when there is nothing to run.
        """
        queued = JobRow.state == JobState.QUEUED.value
        first = case(
            (queued & JobRow.parent.is_(None), 2), (queued, 1), else_=0
        )  # exports take minutes, jobs hours
        runnable = [state.value for state in (JobState.QUEUED, *_INTERRUPTED)]
        order = (JobRow.priority.desc(), first, JobRow.id)
        query = select(JobRow).where(JobRow.state.in_(runnable), JobRow.id.not_in(besides)).order_by(*order)
        with self._base.database.writing() as session:
            now = self._base.clock(session)
            free = query.where(or_(JobRow.leased_until.is_(None), JobRow.leased_until <= now))
            # A row that somebody is changing is left alone: another claimer takes it, or its user cancels it.
            next_free, ended = free.limit(1).with_for_update(skip_locked=True), []
            while (row := session.scalars(next_free).first()) and not retries.take_over(session, row):
                ended.append(row.id)
            if row is not None:
                resumed = row.started_at is not None
                row.epoch += 1
                row.leased_until = now + timedelta(seconds=lease_s)
                mapping.move(session, row, JobState.VALIDATING, data={"resumed": True} if resumed else None)
            job = None if row is None else mapping.job_of(row)
        for id in [*ended, *([] if job is None else [job.id])]:
            self._base.notify(id)
        return job

    def put_back(self, id: str, error: JobError, *, epoch: int, retry_s: float = retries.RETRY_S) -> Job:
        """Puts a job that the machine cut off back into the queue, for a while; too many faults in a row crash it.

        One that its user has asked to cancel or to pause is cancelled or paused.

        Args:
            id: The job.
            error: What happened, for its user.
            epoch: That of the claim it ran by; its holder may write no more.
            retry_s: It may be claimed again after so long, in seconds; twice as long after every further fault.

        Raises:
            SupersededError: It was claimed again since `epoch`, or deleted.
            ConflictError: It is not being run.
        """
        with self._base.database.writing() as session:
            row = mapping.find_held(session, id, epoch)
            mapping.check_move(row, JobState.QUEUED)
            retries.wait_or_crash(session, row, error, self._base.clock(session), retry_s)
            job = mapping.job_of(row)
        self._base.notify(id)
        return job

    def renew(self, id: str, lease_s: float = LEASE_S, *, epoch: int) -> Job:
        """Keeps a job the caller's for another `lease_s` seconds; returns it as it is now.

        Raises:
            SupersededError: It was claimed again since `epoch`, or deleted.
        """
        with self._base.database.writing() as session:
            row = mapping.find_held(session, id, epoch)
            if not JobState(row.state).terminal:
                row.leased_until = self._base.clock(session) + timedelta(seconds=lease_s)
            return mapping.job_of(row)

    def settle(self, id: str, lease_s: float = LEASE_S, *, epoch: int) -> Job:
        """Cancels or pauses a job whose run is over, if its user has asked for that; else it stays the caller's.

        In one step, as what is asked after it meets a job that nobody holds.

        Args:
            id: The job.
            lease_s: As of `renew`.
            epoch: That of the claim it ran by.

        Returns:
            The job as it is now.

        Raises:
            SupersededError: It was claimed again since `epoch`, or deleted.
        """
        with self._base.database.writing() as session:
            row = mapping.find_held(session, id, epoch)
            is_over = JobState(row.state).terminal
            is_moved = not is_over and mapping.heed_marks(session, row)
            if not (is_over or is_moved):
                row.leased_until = self._base.clock(session) + timedelta(seconds=lease_s)
            job = mapping.job_of(row)
        if is_moved:
            self._base.notify(id)
        return job

    def settle_abandoned(self, *, besides: Collection[str] = ()) -> None:
        """Cancels and pauses those jobs that are to be and whose servers fell silent; `besides` as of `claim_next`."""
        running = JobRow.state.in_([state.value for state in _INTERRUPTED])
        marked = or_(JobRow.cancel_requested, JobRow.pause_requested)
        query = select(JobRow).where(running, marked, JobRow.id.not_in(besides))
        with self._base.database.writing() as session:
            free = or_(JobRow.leased_until.is_(None), JobRow.leased_until <= self._base.clock(session))
            found = list(session.scalars(query.where(free).with_for_update(skip_locked=True)))
            for row in found:
                mapping.heed_marks(session, row)
        for row in found:
            self._base.notify(row.id)

    def release(self, id: str, *, epoch: int) -> None:
        """Gives a job up as it stands; it can be claimed at once, and the caller may write no more.

        Raises:
            SupersededError: It was claimed again since `epoch`, or deleted.
        """
        with self._base.database.writing() as session:
            row = mapping.find_held(session, id, epoch)
            row.epoch += 1
            row.leased_until = None

    def idle(self, ids: Collection[str]) -> set[str]:
        """Those of these jobs that nobody runs, or was cut off from: what such a job was about it begins anew."""
        known = select(JobRow.id).where(JobRow.id.in_(ids))
        with self._base.database.reading() as session:
            return set(
                session.scalars(known.where(JobRow.state.not_in([state.value for state in _INTERRUPTED])))
            )

    def release_all(self) -> None:
        """Ends every lease: for a server that knows that it is the only one on this database."""
        leased = update(JobRow).where(JobRow.leased_until.is_not(None))
        cut_off = case((JobRow.state.in_([state.value for state in _INTERRUPTED]), 1), else_=0)
        with self._base.database.writing() as session:
            session.execute(
                leased.values(leased_until=None, epoch=JobRow.epoch + 1, faults=JobRow.faults + cut_off)
            )
            session.execute(update(WebhookRow).values(busy_until=None))
