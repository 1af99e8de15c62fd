"""Leases on a folder that others clean up.

What the holder of a lease uses from then on stays. A lease is a file that its holder keeps locked; its modification
time says since when. The kernel releases the lock of a killed process, so the free lock shows that the holder of a
lease is dead, and the lease is removed.
"""

import math
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout


class Leases:
    """Leases of all processes on a folder.

    Args:
        root: The folder.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Hold a lease until the block is left or the process ends."""
        file = self._root / f"{uuid.uuid4().hex}.lease"
        lock = FileLock(file)
        with self._lock():  # otherwise it could look dead before it is locked
            lock.acquire()
        try:
            yield
        finally:
            file.unlink(missing_ok=True)
            lock.release()

    @contextmanager
    def frozen(self) -> Iterator[float]:
        """Yield when the oldest lease began, in ns since the epoch, or inf.

        No lease begins inside the block.
        """
        with self._lock():
            yield min((began_ns for file, began_ns in self._all() if _is_held(file)), default=math.inf)

    def newest_ns(self) -> int:
        """Return when the newest lease began, in ns since the epoch, or 0."""
        return max((began_ns for _, began_ns in self._all()), default=0)

    def _all(self) -> Iterator[tuple[Path, int]]:
        for file in self._root.glob("*.lease"):
            try:
                began_ns = file.stat().st_mtime_ns
            except FileNotFoundError:  # the lease has just ended
                continue
            yield file, began_ns

    def _lock(self) -> FileLock:
        return FileLock(self._root / "leases.lock")


def _is_held(file: Path) -> bool:
    """Return whether the holder of a lease lives; remove the lease if not."""
    try:
        with FileLock(file, timeout=0):
            file.unlink(missing_ok=True)
    except Timeout:
        return True
    return False
