"""Where tensors live: an accelerator where there is one and it was asked for, else the processor."""

import os

import torch

from search.errors import InfrastructureError

HEADROOM = 1.1


def pick_device(name: str) -> torch.device:
    """Turns `cpu`, `cuda` or `auto` into a device.

    Raises:
        InfrastructureError: `cuda` was asked for and there is none.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise InfrastructureError(
            "an actor was given a GPU but torch sees none; check the driver and the torch build"
        )
    return torch.device(name)


def device_name(device: torch.device) -> str:
    """What people call it."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "this machine's processor"


def present() -> list[tuple[str, str, int]]:
    """What this machine has: kind, name and memory in bytes of the processor and of every GPU."""
    memory_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    found = [("cpu", f"{os.cpu_count()} processors", memory_bytes)]
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        found.append(("cuda", properties.name, properties.total_memory))
    return found


def require_memory(device: torch.device, needed_bytes: int) -> None:
    """Checks that a GPU has room before anything is loaded; Ray's fractional GPUs are bookkeeping only.

    Raises:
        InfrastructureError: Less than `needed_bytes` and a tenth is free.
    """
    if device.type != "cuda":
        return
    free_bytes, total_bytes = torch.cuda.mem_get_info(device)
    if free_bytes < needed_bytes * HEADROOM:
        raise InfrastructureError(
            f"{device} has {free_bytes / 2**30:.1f} of {total_bytes / 2**30:.1f} GiB free, "
            f"expected at least {needed_bytes * HEADROOM / 2**30:.1f} GiB; use fewer actors per GPU"
        )
