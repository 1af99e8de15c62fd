"""A job as the service keeps it: its states, the moves between them, and why it failed.

    queued → preparing → searching → finalizing → succeeded
       any state that is not terminal → failed | cancelled
       preparing | searching | finalizing → preparing      taken up again after its server died or stopped

Knows nothing of SQL, threads or HTTP.
"""

import secrets
import time
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Self

from search.errors import ConflictError, InfrastructureError, InputError, ScoringError
from service.spec import JobSpec


class JobState(StrEnum):
    """Where a job is in its life."""

    QUEUED = "queued"
    PREPARING = "preparing"
    SEARCHING = "searching"
    FINALIZING = "finalizing"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def terminal(self) -> bool:
        """Whether the job has ended for good."""
        return not TRANSITIONS[self]

    @property
    def interruptible(self) -> bool:
        """Whether such a job is being run, or was cut off in mid-run."""
        return JobState.PREPARING in TRANSITIONS[self] and self is not JobState.QUEUED


_ENDS = frozenset({JobState.FAILED, JobState.CANCELLED})

TRANSITIONS: dict[JobState, frozenset[JobState]] = {
    JobState.QUEUED: _ENDS | {JobState.PREPARING},
    JobState.PREPARING: _ENDS | {JobState.SEARCHING, JobState.PREPARING},
    JobState.SEARCHING: _ENDS | {JobState.FINALIZING, JobState.PREPARING},
    JobState.FINALIZING: _ENDS | {JobState.SUCCEEDED, JobState.PREPARING},
    JobState.SUCCEEDED: frozenset(),
    JobState.FAILED: frozenset(),
    JobState.CANCELLED: frozenset(),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class JobError:
    """Why a job failed, for its user. `field` is the dotted path in the job file, where one is to blame."""

    code: str
    message: str
    field: str | None = None

    @classmethod
    def of(cls, error: Exception, job_id: str) -> Self:
        """The user's view of what a pipeline raised.

        Errors of the user, of the scoring and of the machine speak for themselves; any other is a
        fault of ours, whose traceback is in the server's log.
        """
        match error:
            case InputError():
                return cls(code="input", message=error.message, field=error.field)
            case ScoringError():
                return cls(code="scoring", message=str(error))
            case InfrastructureError():
                return cls(code="infrastructure", message=str(error))
            case _:
                kind = type(error).__name__
                message = f"unexpected {kind}; the traceback is in the server's log under job {job_id}"
                return cls(code="internal", message=message)

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values; without `field` where there is none."""
        values = {"code": self.code, "message": self.message}
        return values if self.field is None else {**values, "field": self.field}


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One job at one moment. Times are UTC; `result` is there once it succeeded, `error` once it failed.

    `epoch` counts how often the job was claimed. A server that runs it shows the epoch of its claim with
    every write; once the job was claimed again, its former holder's epoch is stale.
    """

    id: str
    owner: str
    name: str
    labels: dict[str, str]
    spec: JobSpec
    state: JobState
    cancel_requested: bool
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    error: JobError | None = None
    result: dict[str, Any] | None = None
    epoch: int = 0


def new_job_id() -> str:
    """24 hex digits that sort by time: 14 of the clock in microseconds, 10 of chance."""
    return f"{time.time_ns() // 1000:014x}{secrets.token_hex(5)}"


def check_deletable(id: str, state: JobState) -> None:
    """Whether a job in this state may be deleted.

    Raises:
        ConflictError: It has not ended.
    """
    if not state.terminal:
        raise ConflictError(f"job {id} is {state}; cancel it before it is deleted")
