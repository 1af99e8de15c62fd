"""What users ask of their jobs: done at once where nobody holds the job, else left as a mark until nobody does.

Each can be asked again without a difference. Commits nothing.
"""

from datetime import datetime

from sqlalchemy.orm import Session

from ranksieve.search.errors import ConflictError
from ranksieve.service.job.job import JobState, Request
from ranksieve.service.store import mapping
from ranksieve.service.store.schema import JobRow


def ask(session: Session, row: JobRow, request: Request, now: datetime) -> None:
    """Carries out what the user of a job asks, or marks the job with it; its row is locked.

    Args:
        session: Holds the row.
        row: The job.
        request: What is asked.
        now: Tells whether anybody still holds the job.

    Raises:
        ConflictError: It makes no sense in the state that the job is in.
    """
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


def heed_marks(session: Session, row: JobRow) -> bool:
    """Cancels or pauses a job that is marked to be and that nobody goes on with; returns whether it is."""
    if not (row.cancel_requested or row.pause_requested):
        return False
    mapping.move(session, row, JobState.CANCELLED if row.cancel_requested else JobState.PAUSED)
    return True


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
