"""Which errors are faults of the machine: those a job may be tried again after, and is not to blame for."""

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
    """An error as a fault of the machine, or None if it is something else.

    What could not be read is the input's fault only where reading it again would be in vain. Its cause tells, and has
    to be asked in the process that raised it, for causes are not pickled.

    Args:
        error: Whatever a pipeline or a phase raised.
    """
    match error:
        case InfrastructureError():
            return error
        case InputError(__cause__=OSError() | MemoryError() | RuntimeError() as cause):
            return machine_fault(cause)
        case _ if lack_of_memory(error) is not None:
            return InfrastructureError("there is no memory left; free some")
        case OSError() if error.errno in _FAULTS or isinstance(error, ConnectionError):
            return InfrastructureError(f"the machine failed: {error}; see to it, then resume the job")
        case _ if _FULL in str(error):  # safetensors tells of it in an error of its own
            return InfrastructureError(f"the machine failed: {_FULL}; free some, then resume the job")
        case _:
            return None
