"""Claims: which server runs a job, and for how long.

A server claims a job, renews its lease, and releases the job or loses it. Once the lease has run out, another server
may claim the job, which raises the epoch of the job. Later writes of the former holder, which may only have been
slow, are refused.
"""

from collections.abc import Collection
from datetime import timedelta

from sqlalchemy import case, or_, select, update

from ranksieve.service.job.job import Job, JobError, JobState
from ranksieve.service.store import mapping, retries
from ranksieve.service.store.base import Base
from ranksieve.service.store.schema import JobRow, WebhookRow

LEASE_S = 30.0
"""Time that a silent server keeps its job, in seconds."""

_INTERRUPTED = tuple(state for state in JobState if state.interruptible)


class Claims:
    """Gives jobs to the servers that run them, and takes them back."""

    def __init__(self, base: Base) -> None:
        self._base = base

    def claim_next(self, lease_s: float = LEASE_S, *, besides: Collection[str] = ()) -> Job | None:
        """Claim the next job to run and move it to validating.

        The highest priority goes first. Within a priority, interrupted jobs go first, then exports, then the oldest.
        A job whose servers fell silent `FAULTS` times in a row, without saving a generation, crashes. A job with a
        request to cancel or pause is cancelled or paused instead.

        Args:
            lease_s: Time that the job is the caller's, in seconds, if the lease is not renewed.
            besides: Ids of jobs that the caller runs. They are never claimed, however long the caller was held up.

        Returns:
            The job, with the epoch that the caller's writes must pass; None if there is nothing to run.
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
            # A locked row is skipped: another server claims it, or its user cancels it.
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
        """Put an interrupted job back into the queue, with a wait.

        Too many machine failures in a row crash the job. A job with a request to cancel or pause is cancelled or
        paused.

        Args:
            id: The job.
            error: Reason, for its user.
            epoch: Epoch of the claim that it ran by. Its holder may write no more.
            retry_s: Wait before the job may be claimed again, in seconds. It doubles with each further failure.

        Raises:
            SupersededError: The job was claimed again since `epoch`, or deleted.
            ConflictError: The job is not being run.
        """
        return self._release_to_queue(id, epoch, retries.wait_or_crash, error, retry_s)

    def wait_for_room(self, id: str, error: JobError, *, epoch: int, wait_s: float) -> Job:
        """Put a job back into the queue that no node has room for now.

        Args:
            id: The job.
            error: What it needs, for its user.
            epoch: Epoch of the claim that it ran by.
            wait_s: Wait before the job may be claimed again, in seconds.

        Raises:
            SupersededError: The job was claimed again since `epoch`, or deleted.
            ConflictError: The job is not being run.
        """
        return self._release_to_queue(id, epoch, retries.wait_for_room, error, wait_s)

    def _release_to_queue(
        self, id: str, epoch: int, settle: retries.Settle, error: JobError, wait_s: float
    ) -> Job:
        with self._base.database.writing() as session:
            row = mapping.find_held(session, id, epoch)
            mapping.check_move(row, JobState.QUEUED)
            settle(session, row, error, self._base.clock(session), wait_s)
            job = mapping.job_of(row)
        self._base.notify(id)
        return job

    def renew(self, id: str, lease_s: float = LEASE_S, *, epoch: int) -> Job:
        """Renew the lease for another `lease_s` seconds; return the job as it is now.

        Raises:
            SupersededError: The job was claimed again since `epoch`, or deleted.
        """
        with self._base.database.writing() as session:
            row = mapping.find_held(session, id, epoch)
            if not JobState(row.state).terminal:
                row.leased_until = self._base.clock(session) + timedelta(seconds=lease_s)
            return mapping.job_of(row)

    def settle(self, id: str, lease_s: float = LEASE_S, *, epoch: int) -> Job:
        """Cancel or pause a job whose run is over, if requested; else renew the lease.

        This is one transaction, so a later request finds a job without a holder.

        Args:
            id: The job.
            lease_s: See `renew`.
            epoch: Epoch of the claim that it ran by.

        Returns:
            The job as it is now.

        Raises:
            SupersededError: The job was claimed again since `epoch`, or deleted.
        """
        with self._base.database.writing() as session:
            row = mapping.find_held(session, id, epoch)
            is_over = JobState(row.state).terminal
            is_moved = not is_over and mapping.apply_marks(session, row)
            if not (is_over or is_moved):
                row.leased_until = self._base.clock(session) + timedelta(seconds=lease_s)
            job = mapping.job_of(row)
        if is_moved:
            self._base.notify(id)
        return job

    def settle_abandoned(self, *, besides: Collection[str] = ()) -> None:
        """Cancel and pause jobs with such a request whose servers fell silent.

        `besides` are ids of jobs to leave alone, as in `claim_next`.
        """
        running = JobRow.state.in_([state.value for state in _INTERRUPTED])
        marked = or_(JobRow.cancel_requested, JobRow.pause_requested)
        query = select(JobRow).where(running, marked, JobRow.id.not_in(besides))
        with self._base.database.writing() as session:
            free = or_(JobRow.leased_until.is_(None), JobRow.leased_until <= self._base.clock(session))
            found = list(session.scalars(query.where(free).with_for_update(skip_locked=True)))
            for row in found:
                mapping.apply_marks(session, row)
        for row in found:
            self._base.notify(row.id)

    def release(self, id: str, *, epoch: int) -> None:
        """Release a job in its present state.

        The job can be claimed at once, and the caller may write no more.

        Raises:
            SupersededError: The job was claimed again since `epoch`, or deleted.
        """
        with self._base.database.writing() as session:
            row = mapping.find_held(session, id, epoch)
            row.epoch += 1
            row.leased_until = None

    def idle(self, ids: Collection[str]) -> set[str]:
        """Return those of these jobs that are neither running nor interrupted."""
        known = select(JobRow.id).where(JobRow.id.in_(ids))
        with self._base.database.reading() as session:
            return set(
                session.scalars(known.where(JobRow.state.not_in([state.value for state in _INTERRUPTED])))
            )

    def release_all(self) -> None:
        """End every lease.

        Only for a server that knows that it is the only one on this database.
        """
        leased = update(JobRow).where(JobRow.leased_until.is_not(None))
        cut_off = case((JobRow.state.in_([state.value for state in _INTERRUPTED]), 1), else_=0)
        with self._base.database.writing() as session:
            session.execute(
                leased.values(leased_until=None, epoch=JobRow.epoch + 1, faults=JobRow.faults + cut_off)
            )
            session.execute(update(WebhookRow).values(busy_until=None))
