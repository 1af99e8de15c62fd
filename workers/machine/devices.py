"""Where tensors live: an accelerator where there is one and it was asked for, else the processor."""

import ctypes
import gc

import torch

from ranksieve.search.errors import InfrastructureError
from ranksieve.workers.machine.limits import memory_bytes, processors

HEADROOM = 1.1

NO_CPU_MEMORY = "DefaultCPUAllocator: can't allocate memory"
"""How torch says so of the processor's memory; only for an accelerator's there is an exception."""

NO_GPU_MEMORY = ("_STATUS_ALLOC_FAILED", "CUBLAS_STATUS_NOT_INITIALIZED", "CUDA error: out of memory")
"""How libraries (cuBLAS, cuSOLVER) and the driver say so of what torch's own allocator did not ask for. Where there is
no room for its handle, cuBLAS says that it is not initialized."""

LESS_MEMORY = "free some, or take fewer resources.actors"
"""What a job's user can do about a lack of it."""

GPU_FAULTS = ("CUBLAS_STATUS_", "CUSOLVER_STATUS_", "CUDNN_STATUS_", "CUDA error", "CUDA driver error")
"""How the libraries and the driver say that something broke: torch raises a plain RuntimeError of their words."""

CALLERS_FAULTS = ("_STATUS_NOT_SUPPORTED", "_STATUS_INVALID_VALUE")
"""How the libraries say that they were called wrongly."""

CONTEXT_BYTES = 500 * 2**20
"""What CUDA takes for every process that uses a GPU, before the first tensor."""


def pick_device(name: str) -> torch.device:
    """Turns `cpu`, `cuda` or `auto` into a device; on `cuda` this process then sums in one order wherever torch can.

    Raises:
        InfrastructureError: `cuda` was asked for and there is none.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise InfrastructureError(
            "an actor was given a GPU but torch sees none; check the driver and the torch build"
        )
    if name == "cuda":
        torch.use_deterministic_algorithms(True, warn_only=True)
        # nothing here reads memory before it is written, and to fill it would be timed, too
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    return torch.device(name)


def given(device: torch.device) -> list[torch.device]:
    """The devices of a kind that this process has for itself: GPUs that are visible to it, which Ray sees to."""
    if device.type != "cuda" or device.index is not None:
        return [device]
    return [torch.device("cuda", index) for index in range(torch.cuda.device_count())]


def device_name(device: torch.device) -> str:
    """What people call it."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "this machine's processor"


def present() -> list[tuple[str, str, int]]:
    """What this process may use: kind, name and memory in bytes of the processors and of every GPU."""
    found = [("cpu", f"{processors()} processors", memory_bytes())]
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        found.append(("cuda", properties.name, properties.total_memory))
    return found


def hold_to(gpus: float) -> None:
    """Keeps this process within its part of a GPU that it shares: Ray's fractions of one are bookkeeping only.

    Else what there is room for would depend on what its neighbours have kept for later.

    Args:
        gpus: How many it was given.
    """
    if 0 < gpus < 1 and torch.cuda.is_available():
        total_bytes = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(max(0.0, gpus - CONTEXT_BYTES / total_bytes), 0)


def require_memory(device: torch.device, needed_bytes: int) -> None:
    """Checks that the given GPUs have room before anything is loaded, each for its part.

    Raises:
        InfrastructureError: One has less than that and a tenth free.
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
    """What memory there was too little of, if that is what an error says."""
    if isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in NO_GPU_MEMORY):
        return f"out of accelerator memory: {error}"
    if isinstance(error, MemoryError) or NO_CPU_MEMORY in str(error):
        return f"out of memory: {error}"
    return None


def accelerator_fault(error: BaseException) -> str | None:
    """What broke an accelerator, if that is what an error says: its process can compute nothing there any more."""
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
    """Returns what freed tensors have left in the heap to the system, where the C library can.

    After calibration that is gigabytes, in a process that may wait for other work as long as Ray lives.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc alone
    if trim is not None:
        trim(0)
