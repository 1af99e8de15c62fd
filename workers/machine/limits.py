"""How much of a machine this process may use: what containers, services and pods leave it of processors and memory."""

import os
from collections.abc import Iterator
from pathlib import Path

GROUPS = Path("/sys/fs/cgroup")
OWN_GROUPS = Path("/proc/self/cgroup")


def processors() -> int:
    """How many it may run on at once, by its affinity and by its groups' quotas of time, rounded down; at least one."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([allowed, *(int(quota) for quota in _quotas())]))


def memory_bytes() -> int:
    """How many bytes it may have in memory, by the machine's size and its groups' limits."""
    installed = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limits = [_text(group / "memory.max") for group in _groups("")]
    limits += [_text(group / "memory.limit_in_bytes") for group in _groups("memory")]
    return min([installed, *(int(limit) for limit in limits if limit.isdigit())])


def _quotas() -> Iterator[float]:
    """Processors that every group's share of time comes to, where there is one."""
    pairs = [_text(group / "cpu.max").split() for group in _groups("")]
    pairs += [
        [_text(group / f"cpu.cfs_{name}_us") for name in ("quota", "period")] for group in _groups("cpu")
    ]
    for pair in pairs:
        if len(pair) == 2 and all(part.isdigit() for part in pair):  # else "max", -1, or no file
            yield int(pair[0]) / int(pair[1])


def _groups(controller: str) -> Iterator[Path]:
    """Folders of the control groups that this process is in, innermost first; of version 2 where the name is empty.

    In a container the path may be that of the host, and its innermost folder the root: parents are tried all the same.
    """
    for line in _text(OWN_GROUPS).splitlines():
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            mounted = GROUPS / controllers
            innermost = mounted / path.strip("/")
            yield from (group for group in (innermost, *innermost.parents) if group.is_relative_to(mounted))


def _text(file: Path) -> str:
    """What stands in a file of the kernel; nothing where there is none."""
    try:
        return file.read_text().strip()
    except OSError:
        return ""
