"""States of a job, the moves between them, and why it failed.

    queued → validating → preparing → searching → finalizing → succeeded
                                      searching → stopping → finalizing  ends with what the search has found so far
                          preparing → finalizing                         an export searches nothing
       any of these that is not terminal → failed | cancelled | crashed
       validating | preparing | searching | stopping | finalizing →
          validating                                        resumed after its server died or stopped
          queued                                            put back after a machine failure, to try again
          paused                                            by its user; a queued job can be paused, too
       paused | crashed → queued | cancelled                resumed, or given up

Knows nothing of SQL, threads or HTTP.
"""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Self

from ranksieve.search.errors import (
    ConflictError,
    InfrastructureError,
    InputError,
    ScoringError,
    UnresumableError,
)
from ranksieve.service.job.export import Export
from ranksieve.service.job.redaction import redact
from ranksieve.service.spec import JobSpec


class JobState(StrEnum):
    """State of a job."""

    QUEUED = "queued"
    VALIDATING = "validating"
    PREPARING = "preparing"
    SEARCHING = "searching"
    STOPPING = "stopping"
    FINALIZING = "finalizing"
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CRASHED = "crashed"
    CANCELLED = "cancelled"

    @property
    def terminal(self) -> bool:
        """Whether the job has ended for good."""
        return not TRANSITIONS[self]

    @property
    def ended(self) -> bool:
        """Whether the job has ended, for good or by a crash.

        A crashed job may be resumed.
        """
        return self.terminal or self is JobState.CRASHED

    @property
    def interruptible(self) -> bool:
        """Whether a job in this state is being run, or was interrupted."""
        return JobState.VALIDATING in TRANSITIONS[self] and self is not JobState.QUEUED


_ENDS = frozenset({JobState.FAILED, JobState.CANCELLED, JobState.CRASHED})
_CUT = _ENDS | {JobState.VALIDATING, JobState.QUEUED, JobState.PAUSED}
_RESUMABLE = frozenset({JobState.QUEUED, JobState.CANCELLED})

TRANSITIONS: dict[JobState, frozenset[JobState]] = {
    JobState.QUEUED: _ENDS | {JobState.VALIDATING, JobState.PAUSED},
    JobState.VALIDATING: _CUT | {JobState.PREPARING},
    JobState.PREPARING: _CUT | {JobState.SEARCHING, JobState.STOPPING, JobState.FINALIZING},
    JobState.SEARCHING: _CUT | {JobState.STOPPING, JobState.FINALIZING},
    JobState.STOPPING: _CUT | {JobState.FINALIZING},
    JobState.FINALIZING: _CUT | {JobState.SUCCEEDED},
    JobState.PAUSED: _RESUMABLE,
    JobState.CRASHED: _RESUMABLE,
    JobState.SUCCEEDED: frozenset(),
    JobState.FAILED: frozenset(),
    JobState.CANCELLED: frozenset(),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class JobError:
    """Reason why a job failed, for its user.

    `field` is the dotted path in the job file, if one is to blame.
    """

    code: str
    message: str
    field: str | None = None

    @classmethod
    def of(cls, error: Exception, job_id: str) -> Self:
        """Return the user's view of an exception that a pipeline raised.

        Known errors carry their own message. Any other is a bug, whose traceback is in the server's log.
        """
        match error:
            case InputError():
                return cls(code="input", message=redact(error.message), field=error.field)
            case UnresumableError():
                return cls(code="input", message=redact(str(error)))
            case ScoringError():
                return cls(code="scoring", message=redact(str(error)))
            case InfrastructureError():
                return cls(code="infrastructure", message=redact(str(error)))
            case _:
                kind = type(error).__name__
                message = f"unexpected {kind}; the traceback is in the server's log under job {job_id}"
                return cls(code="internal", message=message)

    def as_json(self) -> dict[str, Any]:
        """Return plain JSON values; without `field` if there is none."""
        values = {"code": self.code, "message": self.message}
        return values if self.field is None else {**values, "field": self.field}


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One job at one moment; times are UTC.

    `result` is set once the job succeeded, `error` once it failed or crashed. Requests of the user that are still to
    be carried out are in `cancel_requested`, `pause_requested` and `stop_requested`.

    `faults` counts machine failures in a row without progress in between.

    `epoch` counts how often the job was claimed. A server that runs it passes the epoch of its claim with
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
    pause_requested: bool = False
    stop_requested: bool = False
    started_at: datetime | None = None
    finished_at: datetime | None = None
    error: JobError | None = None
    result: dict[str, Any] | None = None
    epoch: int = 0
    faults: int = 0
    export: Export | None = None
    """The export, if the job is one."""


class Request(StrEnum):
    """Request of a user about a job."""

    PAUSE = "pause"
    """End the run at once; resumed, go on from the last saved generation."""
    RESUME = "resume"
    """Go on after a pause or a crash."""
    STOP = "stop"
    """Search no further; confirm, test and export what was found."""
    CANCEL = "cancel"
    """End now, without a result."""


def check_deletable(id: str, state: JobState) -> None:
    """Check that a job in this state may be deleted.

    Raises:
        ConflictError: The job has not ended for good.
    """
    if not state.terminal:
        raise ConflictError(f"job {id} is {state}; cancel it before it is deleted")
