"""What becomes of a job that a fault of the machine cut off: it waits, longer every time, and crashes at last.

Faults count in a row: a saved generation, or the user's `resume`, starts over. Commits nothing.
"""

from datetime import datetime, timedelta

from sqlalchemy.orm import Session

from ranksieve.service.job.job import JobError, JobState
from ranksieve.service.store import mapping
from ranksieve.service.store.schema import JobRow

FAULTS = 6
"""So many in a row crash a job."""

RETRY_S = 10.0
"""Wait after the first fault, in seconds; it doubles with every further one."""

KILLED = JobError(
    code="infrastructure",
    message=f"its server died or fell silent {FAULTS} times in a row, before a generation was done; look for what "
    "killed it, e.g. too little memory, then resume the job",
)


def take_over(session: Session, row: JobRow) -> bool:
    """Counts the silence of the server that a job is taken over from; False where it was one too many: a crash.

    A job that was given up as it stood has no lease. One that waits in the queue was counted when it was put back. One
    that is to be cancelled or paused is: False, too.
    """
    if mapping.heed_marks(session, row):
        return False
    if row.state == JobState.QUEUED.value:
        return True
    if row.leased_until is not None:
        row.faults += 1
    if row.faults >= FAULTS:
        crash(session, row, KILLED)
    return row.faults < FAULTS


def wait_or_crash(session: Session, row: JobRow, error: JobError, now: datetime, retry_s: float) -> None:
    """Counts a fault of the machine that runs the job; puts the job back, crashes it, or does what its user asked."""
    if mapping.heed_marks(session, row):
        return
    row.faults += 1
    if row.faults >= FAULTS:
        crash(session, row, error)
        return
    wait_s = retry_s * 2 ** (row.faults - 1)
    mapping.move(session, row, JobState.QUEUED, data={"error": error.as_json(), "retry_in_s": wait_s})
    row.leased_until = now + timedelta(seconds=wait_s)


def crash(session: Session, row: JobRow, error: JobError) -> None:
    """Ends a job by a fault of the machine; its user may resume it."""
    mapping.move(session, row, JobState.CRASHED, error=error)
