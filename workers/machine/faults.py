"""Faults of the machine among errors.

A job may be tried again after these, and is not to blame for them.
"""

import errno
import os

from ranksieve.search.errors import InfrastructureError, InputError
from ranksieve.workers.machine.devices import lack_of_memory

_FAULTS = {
    errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.ENOMEM, errno.EMFILE, errno.ENFILE,
    errno.ESTALE, errno.ETIMEDOUT,
}  # fmt: skip

_FULL = os.strerror(errno.ENOSPC)


def machine_fault(error: Exception) -> InfrastructureError | None:
    """Return an error as a fault of the machine, or None if it is something else.

    A failure to read is the input's fault only if reading it again cannot help. Its cause shows this, and must be
    checked in the process that raised it, as causes are not pickled.

    Args:
        error: Error of a pipeline or a phase.
    """
    match error:
        case InfrastructureError():
            return error
        case InputError(
            __cause__=OSError() | MemoryError() | RuntimeError() | InfrastructureError() as cause
        ):
            return machine_fault(cause)
        case _ if lack_of_memory(error) is not None:
            return InfrastructureError("out of memory; free some, then resume the job")
        case OSError() if error.errno in _FAULTS or isinstance(error, ConnectionError):
            return InfrastructureError(f"machine failure: {error}; fix it, then resume the job")
        case _ if _FULL in str(error):  # safetensors reports it in an error of its own
            return InfrastructureError(f"machine failure: {_FULL}; free some space, then resume the job")
        case _:
            return None
