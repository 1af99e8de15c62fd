import errno

import pytest

from ranksieve.search.errors import InfrastructureError, InputError, ScoringError, StoreError
from ranksieve.workers.machine.faults import machine_fault


def unreadable(cause: Exception) -> InputError:
    """The input error that a reader makes of what it meets."""
    with pytest.raises(InputError) as caught:
        raise InputError("task.data.source.path", f"cannot read x: {cause}") from cause
    return caught.value


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/data/x"), "No space left on device: '/data/x'"),
        (OSError(errno.EIO, "Input/output error"), "Input/output error"),
        (ConnectionRefusedError("no cluster there"), "no cluster there"),
        (MemoryError(), "out of memory"),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
            "out of memory",
        ),
        (RuntimeError("IoError: No space left on device (os error 28)"), "No space left on device"),
    ],
)
def test_what_the_machine_did_is_its_fault(error: Exception, words: str) -> None:
    fault = machine_fault(error)

    assert type(fault) is InfrastructureError
    assert words in str(fault)


@pytest.mark.parametrize("error", [InfrastructureError("actors die"), StoreError("locked")])
def test_what_is_a_fault_already_stays_as_it_is(error: Exception) -> None:
    assert machine_fault(error) is error


@pytest.mark.parametrize(
    "cause",
    [
        OSError(errno.ESTALE, "Stale file handle", "/data/x"),
        OSError(errno.EIO, "Input/output error"),
        OSError(errno.EMFILE, "Too many open files"),
        ConnectionResetError("the hub hung up"),
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
    ],
)
def test_an_input_that_the_machine_could_not_read_is_the_machines_fault(cause: Exception) -> None:
    assert str(machine_fault(unreadable(cause))) == str(machine_fault(cause))


@pytest.mark.parametrize(
    "cause",
    [
        FileNotFoundError(errno.ENOENT, "No such file or directory", "/x"),
        PermissionError(errno.EACCES, "Permission denied", "/x"),
        OSError("no file named config.json"),
        ValueError("not JSON"),
        RuntimeError("size mismatch for lm_head.weight"),
    ],
)
def test_an_input_that_is_not_there_or_not_readable_is_not(cause: Exception) -> None:
    assert machine_fault(unreadable(cause)) is None


@pytest.mark.parametrize(
    "error",
    [
        InputError("model.path", "is no folder"),
        ScoringError("every seed failed"),
        FileNotFoundError(errno.ENOENT, "No such file or directory", "/x"),
        ZeroDivisionError(),
    ],
)
def test_what_somebody_else_did_is_not(error: Exception) -> None:
    assert machine_fault(error) is None
