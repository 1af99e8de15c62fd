"""A job as the service keeps it: its states, the moves between them, and why it failed.

    queued → validating → preparing → searching → finalizing → succeeded
                                      searching → stopping → finalizing  ends with what the search has found so far
                          preparing → finalizing                         an export searches nothing
       any of these that is not terminal → failed | cancelled | crashed
       validating | preparing | searching | stopping | finalizing →
          validating                                        taken up again after its server died or stopped
          queued                                            put back after a fault of the machine, to try again
          paused                                            by its user; so is a queued one
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
    """Where a job is in its life."""

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
        """Whether the job has ended: for good, or by a fault of the machine, after which it may be resumed."""
        return self.terminal or self is JobState.CRASHED

    @property
    def interruptible(self) -> bool:
        """Whether such a job is being run, or was cut off in mid-run."""
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
    """Why a job failed, for its user. `field` is the dotted path in the job file, where one is to blame."""

    code: str
    message: str
    field: str | None = None

    @classmethod
    def of(cls, error: Exception, job_id: str) -> Self:
        """The user's view of what a pipeline raised.

        Errors of the user, of what a job has kept, of the scoring and of the machine speak for themselves; any
        other is a fault of ours, whose traceback is in the server's log.
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
        """Plain JSON values; without `field` where there is none."""
        values = {"code": self.code, "message": self.message}
        return values if self.field is None else {**values, "field": self.field}


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One job at one moment. Times are UTC; `result` is there once it succeeded, `error` once it failed or crashed.

    What its user asked of it and is still to come is in `cancel_requested`, `pause_requested` and `stop_requested`.
    `faults` counts the runs in a row that the machine cut off before they got any further.

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
    pause_requested: bool = False
    stop_requested: bool = False
    started_at: datetime | None = None
    finished_at: datetime | None = None
    error: JobError | None = None
    result: dict[str, Any] | None = None
    epoch: int = 0
    faults: int = 0
    export: Export | None = None
    """What it exports, where that is all it does."""


class Request(StrEnum):
    """What a job's user may ask of it."""

    PAUSE = "pause"
    """End the run at once; resumed, go on from the last saved generation."""
    RESUME = "resume"
    """Go on after a pause or a crash."""
    STOP = "stop"
    """Search no further; confirm, test and export what was found."""
    CANCEL = "cancel"
    """End now, without a result."""


def check_deletable(id: str, state: JobState) -> None:
    """Whether a job in this state may be deleted.

    Raises:
        ConflictError: It has not ended for good.
    """
    if not state.terminal:
        raise ConflictError(f"job {id} is {state}; cancel it before it is deleted")
