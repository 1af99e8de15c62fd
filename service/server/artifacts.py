"""Artifacts of a job, by names that are safe to publish and to accept.

A name is the file's path inside the folder, with `/` between its parts. Only regular files in the folder itself
count: a file reached through a symbolic link is no artifact.
"""

import hashlib
import os
import stat
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TypedDict

from ranksieve.search.errors import NotFoundError


class Artifact(TypedDict):
    """File of a job, with its name in the folder and its size."""

    name: str
    bytes: int


def list(directory: Path) -> Sequence[Artifact]:
    """List every artifact of a job, by name; empty if there is no folder yet.

    Args:
        directory: The job's artifact folder.
    """
    found = []
    for folder, _, file_names in os.walk(directory):
        for path in (Path(folder, file_name) for file_name in file_names):
            if (size_bytes := _regular_file_bytes(path)) is not None:
                found.append(Artifact(name=path.relative_to(directory).as_posix(), bytes=size_bytes))
    return sorted(found, key=lambda artifact: artifact["name"])


def resolve(directory: Path, name: str) -> Path:
    """Return the file of that name.

    Args:
        directory: The job's artifact folder.
        name: A name from `list`; anything else is refused.

    Returns:
        Absolute path of a regular file inside the folder.

    Raises:
        NotFoundError: There is no such artifact, or the name leads out of the folder or over a link.
    """
    try:
        root = directory.resolve()
        path = root / name
        # A name with `..`, an absolute one and one over a link all end elsewhere than they say.
        if path.resolve() == path and path.is_relative_to(root) and path.is_file():
            return path
    except (OSError, ValueError):  # too long for the file system, or holds a NUL
        pass
    raise NotFoundError(f"there is no artifact {name!r}")


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hex.

    The digest is computed once and reused until the size or the time of the file changes.

    Raises:
        NotFoundError: The job was deleted meanwhile.
    """
    try:
        status = path.stat()
        return _sha256(path, status.st_size, status.st_mtime_ns)
    except FileNotFoundError as error:
        raise NotFoundError(f"there is no artifact {path.name!r} any more") from error


@lru_cache(maxsize=1024)
def _sha256(path: Path, _size_bytes: int, _changed_ns: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _regular_file_bytes(path: Path) -> int | None:
    """Return the size of a file, in bytes.

    None for a link, and for a file that an export has just moved away.
    """
    try:
        status = path.lstat()
    except FileNotFoundError:
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None
