"""Requests of users, carried out at once or left for the server that runs the job."""

from datetime import datetime

from sqlalchemy.orm import Session

from ranksieve.search.errors import ConflictError
from ranksieve.service.job.changes import JobChanges
from ranksieve.service.job.events import EventType
from ranksieve.service.job.job import Job, JobState, Request
from ranksieve.service.store import mapping
from ranksieve.service.store.base import Base
from ranksieve.service.store.schema import JobRow


class UserRequests:
    """Carries out requests of users about their jobs."""

    def __init__(self, base: Base) -> None:
        self._base = base

    def ask(self, id: str, request: Request, owner: str | None = None) -> Job:
        """Carry a request out, or mark the job with it; repeating it has no effect.

        Args:
            id: The job.
            request: The request.
            owner: Owner that the job must have; None: any.

        Raises:
            NotFoundError: There is no such job.
            ConflictError: The job's state does not allow the request.
        """
        with self._base.database.writing() as session:
            row = mapping.find_job(session, id, owner, lock=True)
            before = row.event_count
            _ask(session, row, request, self._base.clock(session))
            job, news = mapping.job_of(row), row.event_count > before
        if news:
            self._base.notify(id)
        return job

    def change(self, id: str, changes: JobChanges, owner: str | None = None) -> Job:
        """Change a job's name, labels, priority or actors.

        A running job takes new actors and a new priority while it runs.

        Args:
            id: The job.
            changes: What to change.
            owner: Owner that the job must have; None: any.

        Raises:
            NotFoundError: There is no such job.
            ConflictError: The job has ended, so it has no actors.
        """
        with self._base.database.writing() as session:
            row = mapping.find_job(session, id, owner, lock=True)
            before = mapping.job_of(row)
            spec = changes.applied_to(before.spec)
            if spec.resources != before.spec.resources and before.state.terminal:
                raise ConflictError(f"job {id} has ended: {before.state}; it needs no actors any more")
            if spec != before.spec:
                mapping.keep_spec(session, row, spec)
                mapping.append_event(session, row, EventType.JOB_CHANGED, changes.given())
            job = mapping.job_of(row)
        if job != before:
            self._base.notify(id)
        return job


def _ask(session: Session, row: JobRow, request: Request, now: datetime) -> None:
    state = JobState(row.state)
    if state.terminal:
        raise ConflictError(f"job {row.id} has already ended: {state}; there is nothing to {request}")
    if row.cancel_requested and request is not Request.CANCEL:
        raise ConflictError(f"job {row.id} is being cancelled; it is too late to {request} it")
    held = state.interruptible and row.leased_until is not None and row.leased_until > now
    match request:
        case Request.PAUSE:
            _pause(session, row, state, held)
        case Request.RESUME:
            _resume(session, row, state)
        case Request.STOP:
            _stop(session, row, state)
        case Request.CANCEL:
            _cancel(session, row, held)


def _pause(session: Session, row: JobRow, state: JobState, held: bool) -> None:
    if row.stop_requested:
        raise ConflictError(f"job {row.id} is stopping; it ends by itself with what it has found")
    if state is JobState.CRASHED:
        raise ConflictError(f"job {row.id} has crashed: nothing of it runs; resume or cancel it")
    if held:
        row.pause_requested = True
    elif state is not JobState.PAUSED:
        mapping.move(session, row, JobState.PAUSED)


def _resume(session: Session, row: JobRow, state: JobState) -> None:
    row.pause_requested = False
    if state in (JobState.PAUSED, JobState.CRASHED):
        row.faults, row.error, row.finished_at = 0, None, None
        mapping.move(session, row, JobState.QUEUED)


def _stop(session: Session, row: JobRow, state: JobState) -> None:
    if row.parent is not None:
        raise ConflictError(f"job {row.id} is an export: it searches nothing that could stop; cancel it")
    if row.stop_requested:
        return
    if row.started_at is None:
        raise ConflictError(f"job {row.id} has not started, so it has found nothing; cancel it")
    if state is JobState.FINALIZING:
        raise ConflictError(f"the search of job {row.id} is over already; the job ends by itself")
    row.stop_requested = True
    _resume(session, row, state)
    if state is JobState.SEARCHING:
        mapping.move(session, row, JobState.STOPPING)


def _cancel(session: Session, row: JobRow, held: bool) -> None:
    row.cancel_requested = True
    if not held:
        mapping.move(session, row, JobState.CANCELLED)
