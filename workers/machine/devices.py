"""Devices of tensors: an accelerator if present and wanted, else the processor."""

import ctypes
import gc

import torch

from ranksieve.search.errors import InfrastructureError
from ranksieve.workers.machine.limits import memory_bytes, processors

HEADROOM = 1.1

NO_CPU_MEMORY = "DefaultCPUAllocator: can't allocate memory"
"""Message of torch for a lack of the processor's memory.

Torch has an exception of its own only for a lack of an accelerator's memory.
"""

NO_GPU_MEMORY = ("_STATUS_ALLOC_FAILED", "CUBLAS_STATUS_NOT_INITIALIZED", "CUDA error: out of memory")
"""Messages of libraries and the driver for a lack of memory outside torch.

Without room for its handle, cuBLAS says that it is not initialized.
"""

LESS_MEMORY = "free some, or take fewer resources.actors"
"""What a job's user can do about a lack of it."""

GPU_FAULTS = ("CUBLAS_STATUS_", "CUSOLVER_STATUS_", "CUDNN_STATUS_", "CUDA error", "CUDA driver error")
"""Words of libraries and the driver for a broken accelerator.

Torch raises a plain RuntimeError with them.
"""

CALLERS_FAULTS = ("_STATUS_NOT_SUPPORTED", "_STATUS_INVALID_VALUE")
"""Words of libraries for a wrong call."""

CONTEXT_BYTES = 500 * 2**20
"""Memory that CUDA takes per process on a GPU, before the first tensor."""


def pick_device(name: str) -> torch.device:
    """Return the device for `cpu`, `cuda` or `auto`.

    On `cuda` this process then sums in one order wherever torch can.

    Raises:
        InfrastructureError: There is no `cuda` device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise InfrastructureError(
            "an actor was given a GPU but torch sees none; check the driver and the torch build"
        )
    if name == "cuda":
        torch.use_deterministic_algorithms(True, warn_only=True)
        # no code here reads memory before it is written, and filling it would be timed, too
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    return torch.device(name)


def given(device: torch.device) -> list[torch.device]:
    """Return the devices of a kind that this process has for itself.

    Ray makes only these GPUs visible to it.
    """
    if device.type != "cuda" or device.index is not None:
        return [device]
    return [torch.device("cuda", index) for index in range(torch.cuda.device_count())]


def device_name(device: torch.device) -> str:
    """Return the usual name of a device."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "this machine's processor"


def present() -> list[tuple[str, str, int]]:
    """Return kind, name and memory in bytes of the processors and of every GPU."""
    found = [("cpu", f"{processors()} processors", memory_bytes())]
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        found.append(("cuda", properties.name, properties.total_memory))
    return found


def hold_to(gpus: float) -> None:
    """Limit this process to its part of a shared GPU.

    Ray's fractions of a GPU are only bookkeeping. Without a limit, the free memory would depend on what other
    processes have reserved.

    Args:
        gpus: Number of GPUs that it was given.
    """
    if 0 < gpus < 1 and torch.cuda.is_available():
        total_bytes = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(max(0.0, gpus - CONTEXT_BYTES / total_bytes), 0)


def require_memory(device: torch.device, needed_bytes: int) -> None:
    """Check that the GPUs have room before anything is loaded.

    Each must have room for its part.

    Raises:
        InfrastructureError: A GPU has less free memory than 1.1 times its part.
    """
    if device.type != "cuda":
        return
    gpus = given(device)
    each_bytes = needed_bytes * HEADROOM / len(gpus)
    for number, gpu in enumerate(gpus, 1):
        free_bytes, total_bytes = torch.cuda.mem_get_info(gpu)
        if free_bytes < each_bytes:
            raise InfrastructureError(
                f"GPU {number} of {len(gpus)} of this actor: {free_bytes / 2**30:.1f} of {total_bytes / 2**30:.1f} GiB "
                f"free, expected at least {each_bytes / 2**30:.1f}; use fewer actors per GPU, or more GPUs per actor"
            )


def lack_of_memory(error: BaseException) -> str | None:
    """Return which memory was exhausted, if that is the error, else None."""
    if isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in NO_GPU_MEMORY):
        return f"out of accelerator memory: {error}"
    if isinstance(error, MemoryError) or NO_CPU_MEMORY in str(error):
        return f"out of memory: {error}"
    return None


def accelerator_fault(error: BaseException) -> str | None:
    """Return what broke an accelerator, if that is the error, else None.

    The process cannot compute anything there any more.
    """
    says = str(error)
    broken = isinstance(error, torch.AcceleratorError) or (
        isinstance(error, RuntimeError)
        and any(words in says for words in GPU_FAULTS)
        and not any(words in says for words in CALLERS_FAULTS)
    )
    if not broken or lack_of_memory(error) is not None:
        return None
    what, _, _ = says.partition("\n")
    return f"lost its accelerator: {what}"


def give_memory_back() -> None:
    """Return freed memory of tensors to the system, where the C library can.

    After calibration these are gigabytes, in a process that may wait for other work as long as Ray lives.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc alone
    if trim is not None:
        trim(0)
