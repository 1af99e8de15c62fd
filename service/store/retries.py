"""Retries of jobs after machine failures: growing waits, and at last a crash.

Failures count in a row: a saved generation, or the user's `resume`, resets the count. Commits nothing.
"""

from collections.abc import Callable
from datetime import datetime, timedelta

from sqlalchemy.orm import Session

from ranksieve.service.job.job import JobError, JobState
from ranksieve.service.store import mapping
from ranksieve.service.store.schema import JobRow

Settle = Callable[[Session, JobRow, JobError, datetime, float], None]
"""Decision on an interrupted job: session, its row, the reason, the time now, and the wait in seconds."""

FAULTS = 6
"""Machine failures in a row that crash a job."""

RETRY_S = 10.0
"""Wait after the first failure, in seconds; it doubles with every further one."""

KILLED = JobError(
    code="infrastructure",
    message=f"its server died or fell silent {FAULTS} times in a row, before a generation was done; look for what "
    "killed it, e.g. too little memory, then resume the job",
)


def take_over(session: Session, row: JobRow) -> bool:
    """Count the silence of a server whose job is taken over; return False on a crash.

    A released job has no lease and is not counted. A job in the queue was counted when it was put back. A job with a
    request to cancel or pause is cancelled or paused, and False is returned, too.
    """
    if mapping.apply_marks(session, row):
        return False
    if row.state == JobState.QUEUED.value:
        return True
    if row.leased_until is not None:
        row.faults += 1
    if row.faults >= FAULTS:
        crash(session, row, KILLED)
    return row.faults < FAULTS


def wait_or_crash(session: Session, row: JobRow, error: JobError, now: datetime, retry_s: float) -> None:
    """Count a machine failure; put the job back, crash it, or end it as requested."""
    if mapping.apply_marks(session, row):
        return
    row.faults += 1
    if row.faults >= FAULTS:
        crash(session, row, error)
        return
    _wait(session, row, error, now, retry_s * 2 ** (row.faults - 1))


def wait_for_room(session: Session, row: JobRow, error: JobError, now: datetime, wait_s: float) -> None:
    """Put back a job that no node has room for, or end it as requested.

    It does not count as a failure.
    """
    if not mapping.apply_marks(session, row):
        _wait(session, row, error, now, wait_s)


def _wait(session: Session, row: JobRow, error: JobError, now: datetime, wait_s: float) -> None:
    mapping.move(session, row, JobState.QUEUED, data={"error": error.as_json(), "retry_in_s": wait_s})
    row.leased_until = now + timedelta(seconds=wait_s)


def crash(session: Session, row: JobRow, error: JobError) -> None:
    """Crash a job by a machine failure; its user may resume it."""
    mapping.move(session, row, JobState.CRASHED, error=error)
