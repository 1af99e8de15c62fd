"""Where tensors live: an accelerator where there is one and it was asked for, else the processor."""

import ctypes
import gc

import torch

from search.errors import InfrastructureError
from workers.process_limits import memory_bytes, processors

HEADROOM = 1.1

NO_CPU_MEMORY = "DefaultCPUAllocator: can't allocate memory"
"""How torch says so of the processor's memory; only for an accelerator's there is an exception."""

NO_GPU_MEMORY = ("_STATUS_ALLOC_FAILED", "CUDA error: out of memory")
"""How libraries (cuBLAS, cuSOLVER) and the driver say so of what torch's own allocator did not ask for."""


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


def require_memory(device: torch.device, needed_bytes: int) -> None:
    """Checks that the given GPUs have room before anything is loaded; Ray's fractions of one are bookkeeping only.

    Raises:
        InfrastructureError: Less than `needed_bytes` and a tenth is free.
    """
    if device.type != "cuda":
        return
    memory = [torch.cuda.mem_get_info(gpu) for gpu in given(device)]
    free_bytes, total_bytes = (sum(sizes) for sizes in zip(*memory, strict=True))
    if free_bytes < needed_bytes * HEADROOM:
        raise InfrastructureError(
            f"{len(memory)} GPU{'s' * (len(memory) > 1)} of this actor: {free_bytes / 2**30:.1f} of "
            f"{total_bytes / 2**30:.1f} GiB free, expected at least {needed_bytes * HEADROOM / 2**30:.1f} GiB; "
            "use fewer actors per GPU, or more GPUs per actor"
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
    if not isinstance(error, torch.AcceleratorError) or lack_of_memory(error) is not None:
        return None
    what, _, _ = str(error).partition("\n")
    return f"lost its accelerator: {what}"


def give_memory_back() -> None:
    """Returns what freed tensors have left in the heap to the system, where the C library can.

    After calibration that is gigabytes, in a process that may wait for other work as long as Ray lives.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc alone
    if trim is not None:
        trim(0)
