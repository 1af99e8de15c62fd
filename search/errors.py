"""Every exception the project raises on purpose.

    RanksieveError
    ├── InputError        something the user gave is wrong; names the field
    ├── NotFoundError     no such job, candidate or artifact
    ├── GoneError         it was there, and was not kept
    ├── ConflictError     the request does not fit the state of the job
    │   ├── SupersededError      another server has taken the job over since
    │   ├── OutdatedError        the job has changed since the caller looked
    │   └── UnresumableError     what the job has kept is no use to this program, or to its spec
    ├── LimitError        the caller asks for more than one caller may have; later there may be room
    ├── CancelledError    the user asked the job to end
    ├── ScoringError      candidates cannot be scored: too many failed, or the baseline did
    └── InfrastructureError  the machine failed: actors keep dying, a deadline passed, no memory
        └── StoreError           the database failed; what was not committed did not happen

`api/errors.py` alone maps them to HTTP.
"""


class RanksieveError(Exception):
    """Base of every error raised on purpose."""


class InputError(RanksieveError):
    """Something the user gave is wrong.

    Args:
        field: Dotted path of the offending field in the job file, e.g. `task.prompt`.
        message: What is wrong, what was expected, what was got, what to do.
    """

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.message = message

    def __reduce__(self) -> tuple[type["InputError"], tuple[str, str]]:
        return (InputError, (self.field, self.message))


class NotFoundError(RanksieveError):
    """No such job, candidate or artifact."""


class GoneError(RanksieveError):
    """It was there, and was not kept."""


class ConflictError(RanksieveError):
    """The request does not fit the state of the job."""


class SupersededError(ConflictError):
    """Another server has taken the job over since; what its former holder writes is refused."""


class OutdatedError(ConflictError):
    """The job has changed since the caller looked."""


class UnresumableError(ConflictError):
    """What the job has kept is of another version of this program or of another search; it cannot go on from there."""


class LimitError(RanksieveError):
    """The caller asks for more than one caller may have; later there may be room.

    Args:
        message: What there is too much of, how much there may be, what to do.
        retry_after_s: In so many seconds it is worth asking again.
    """

    def __init__(self, message: str, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s

    def __reduce__(self) -> tuple[type["LimitError"], tuple[str, int]]:
        return (LimitError, (str(self), self.retry_after_s))


class CancelledError(RanksieveError):
    """The user asked the job to end."""


class ScoringError(RanksieveError):
    """Candidates cannot be scored."""


class InfrastructureError(RanksieveError):
    """The machine failed, not the job."""


class StoreError(InfrastructureError):
    """The database failed; what was not committed did not happen."""
