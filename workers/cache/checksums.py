"""Checksums of files, computed once per node.

A file whose size, time and inode are as they were has its old checksum. What one process has computed, the others of
its node read. Another node computes for itself, since what it reads of a shared file may be damaged.
"""

import json
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from filelock import FileLock

Stamp = list[int]
"""Size, time of modification and inode of a file."""


class Checksums:
    """Known checksums of sets of files, by name.

    Args:
        folder: Folder of what nodes know, shared by all of them.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def of(self, name: str, files: Sequence[Path], compute: Callable[[Path], str]) -> list[str]:
        """Return the checksum of each file.

        Only one process of a node computes; others that want the same set wait for it.

        Args:
            name: Name of the set, always with the same `compute`.
            files: Its files.
            compute: Reads a file and returns its checksum.
        """
        if (known := self._known(name, files)) is None:
            file = self._file(name)
            file.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(file.with_suffix(".lock")):
                if (known := self._known(name, files)) is None:
                    # Before the files are read, so that a change meanwhile shows later.
                    stamps = [_stamp(one) for one in files]
                    known = [compute(one) for one in files]
                    self._keep(name, dict(zip(map(str, files), zip(stamps, known, strict=True), strict=True)))
        return known

    def record(self, name: str, checksums: Mapping[Path, str]) -> None:
        """Keep checksums that the caller has computed."""
        self._file(name).parent.mkdir(parents=True, exist_ok=True)
        self._keep(name, {str(file): (_stamp(file), digest) for file, digest in checksums.items()})

    def forget(self, name: str) -> None:
        """Forget a set on all nodes."""
        for file in self._folder.glob(f"*/{name}.*"):
            file.unlink(missing_ok=True)

    def _known(self, name: str, files: Sequence[Path]) -> list[str] | None:
        with suppress(OSError, ValueError, KeyError):  # unknown, or damaged: it is computed again
            kept: dict[str, Any] = json.loads(self._file(name).read_text())
            if all(kept[str(file)][0] == _stamp(file) for file in files):
                return [kept[str(file)][1] for file in files]
        return None

    def _keep(self, name: str, kept: Mapping[str, Any]) -> None:
        file = self._file(name)
        scratch = file.with_suffix(f".{os.getpid()}")
        scratch.write_text(json.dumps(kept))
        scratch.rename(file)

    def _file(self, name: str) -> Path:
        return self._folder / socket.gethostname() / f"{name}.json"


def _stamp(file: Path) -> Stamp:
    status = file.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ino]
