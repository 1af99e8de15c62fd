"""Exceptions that the project raises on purpose.

    RanksieveError
    ├── InputError        invalid input; names the field
    ├── NotFoundError     no such job, candidate or artifact
    ├── GoneError         the thing existed but was not kept
    ├── ConflictError     the request does not fit the state of the job
    │   ├── SupersededError      another server has taken over the job
    │   └── UnresumableError     the saved state does not fit this program or the job's spec
    ├── LimitError        the caller exceeds a limit; a later attempt may succeed
    ├── CancelledError    the user cancelled the job
    ├── ScoringError      candidates cannot be scored: too many failed, or the baseline did
    └── InfrastructureError  the machine failed: actors keep dying, a deadline passed, no memory
        ├── NoRoomError          no node of the cluster has room now; the job waits for one
        └── StoreError           the database failed; uncommitted changes are lost

`api/errors.py` alone maps them to HTTP.
"""

LONGEST_MESSAGE = 4000
"""Most characters of an error's message; it may quote what its user sent, which may have millions."""


def shortened(text: str) -> str:
    """Return a message, cut off at a space if it is too long.

    Half of a secret would not be recognized as one.
    """
    if len(text) <= LONGEST_MESSAGE:
        return text
    kept = text[: LONGEST_MESSAGE - 50].rpartition(" ")[0]
    return f"{kept} … ({len(text):,} characters in all)"


class RanksieveError(Exception):
    """Base class of all errors raised on purpose."""


class InputError(RanksieveError):
    """Invalid input from the user.

    Args:
        field: Dotted path of the offending field in the job file, e.g. `task.prompt`.
        message: What is wrong, what was expected, what was given, what to do; a long one is cut off.
    """

    def __init__(self, field: str, message: str) -> None:
        self.field, self.message = field, shortened(message)
        super().__init__(f"{field}: {self.message}")

    def __reduce__(self) -> tuple[type["InputError"], tuple[str, str]]:
        return (InputError, (self.field, self.message))


class NotFoundError(RanksieveError):
    """Missing job, candidate or artifact."""


class GoneError(RanksieveError):
    """Request for something that existed but was not kept."""


class ConflictError(RanksieveError):
    """Request that does not fit the state of the job."""


class SupersededError(ConflictError):
    """Write of a server that no longer owns the job.

    Another server has taken over the job.
    """


class UnresumableError(ConflictError):
    """Saved state of a job that cannot be continued.

    It is of another version of this program or of another search.
    """


class LimitError(RanksieveError):
    """Request beyond what one caller may have; a later one may succeed.

    Args:
        message: What exceeds a limit, the limit, what to do.
        retry_after_s: Seconds after which to try again.
    """

    def __init__(self, message: str, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s

    def __reduce__(self) -> tuple[type["LimitError"], tuple[str, int]]:
        return (LimitError, (str(self), self.retry_after_s))


class CancelledError(RanksieveError):
    """Job cancelled by the user."""


class ScoringError(RanksieveError):
    """Candidates that cannot be scored."""


class InfrastructureError(RanksieveError):
    """Failure of the machine, not of the job."""


class NoRoomError(InfrastructureError):
    """Lack of a node that has room for one of the job's actors.

    Clusters grow and shrink, so it is nobody's fault.
    """


class StoreError(InfrastructureError):
    """Failure of the database; uncommitted changes are lost."""
