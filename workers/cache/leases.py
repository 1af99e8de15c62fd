"""Leases on a folder that others tidy up: what its holder uses from now on stays.

A lease is a file that its holder keeps locked; when it was made says since when. The kernel gives the lock of a
killed process back, so the lease of a dead holder is known by its lock being free, and is removed.
"""

import math
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout


class Leases:
    """The leases on a folder, of all processes.

    Args:
        root: The folder.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Holds a lease until the block is left or the process ends."""
        file = self._root / f"{uuid.uuid4().hex}.lease"
        lock = FileLock(file)
        with self._lock():  # else it could be taken for a dead one before it is locked
            lock.acquire()
        try:
            yield
        finally:
            file.unlink(missing_ok=True)
            lock.release()

    @contextmanager
    def frozen(self) -> Iterator[float]:
        """Yields when the oldest lease began, in ns since the epoch, or inf; none begins inside the block."""
        with self._lock():
            yield min((began_ns for file, began_ns in self._all() if _is_held(file)), default=math.inf)

    def newest_ns(self) -> int:
        """When the newest lease began, in ns since the epoch; 0 if there is none."""
        return max((began_ns for _, began_ns in self._all()), default=0)

    def _all(self) -> Iterator[tuple[Path, int]]:
        for file in self._root.glob("*.lease"):
            try:
                began_ns = file.stat().st_mtime_ns
            except FileNotFoundError:  # it has just ended
                continue
            yield file, began_ns

    def _lock(self) -> FileLock:
        return FileLock(self._root / "leases.lock")


def _is_held(file: Path) -> bool:
    """Whether the holder of a lease lives; a dead one's is removed."""
    try:
        with FileLock(file, timeout=0):
            file.unlink(missing_ok=True)
    except Timeout:
        return True
    return False
