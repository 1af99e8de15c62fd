"""Limits of containers, services and pods on this process."""

import os
from collections.abc import Iterator
from pathlib import Path

GROUPS = Path("/sys/fs/cgroup")
OWN_GROUPS = Path("/proc/self/cgroup")


def processors() -> int:
    """Return how many processors this process may use at once.

    It counts the affinity and the time quotas of control groups, rounded down; at least one.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([allowed, *(int(quota) for quota in _quotas())]))


def memory_bytes() -> int:
    """Return the memory that this process may use, in bytes."""
    installed = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limits = [_text(group / "memory.max") for group in _groups("")]
    limits += [_text(group / "memory.limit_in_bytes") for group in _groups("memory")]
    return min([installed, *(int(limit) for limit in limits if limit.isdigit())])


def _quotas() -> Iterator[float]:
    """Yield the processors that the time quota of each control group amounts to."""
    pairs = [_text(group / "cpu.max").split() for group in _groups("")]
    pairs += [
        [_text(group / f"cpu.cfs_{name}_us") for name in ("quota", "period")] for group in _groups("cpu")
    ]
    for pair in pairs:
        if len(pair) == 2 and all(part.isdigit() for part in pair):  # else "max", -1, or no file
            yield int(pair[0]) / int(pair[1])


def _groups(controller: str) -> Iterator[Path]:
    """Yield the control groups' folders of this process, innermost first.

    An empty name means version 2. In a container the path may be that of the host, and its innermost folder the root,
    so parents are tried as well.
    """
    for line in _text(OWN_GROUPS).splitlines():
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            mounted = GROUPS / controllers
            innermost = mounted / path.strip("/")
            yield from (group for group in (innermost, *innermost.parents) if group.is_relative_to(mounted))


def _text(file: Path) -> str:
    """Return the text of a kernel's file, or an empty text if there is none."""
    try:
        return file.read_text().strip()
    except OSError:
        return ""
