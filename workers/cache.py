"""A cache of folders on disk, keyed by the content that made them.

An entry becomes visible in one rename, after its files are on the disk; a manifest of checksums tells a
whole entry from a damaged one, which is dropped and built again. Two processes that want the same key
share one computation: the second waits for the first.
"""

import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"


def content_key(*parts: Any) -> str:
    """A key from JSON-able parts: equal parts, equal key."""
    encoded = json.dumps(parts, sort_keys=True, separators=(",", ":")).encode()
    return hashlib.sha256(encoded).hexdigest()[:32]


def file_sha256(file: Path) -> str:
    """sha256 of a file's bytes, in hex."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


class FolderCache:
    """Folders under `root`, one per key."""

    def __init__(self, root: Path) -> None:
        self._root = root
        root.mkdir(parents=True, exist_ok=True)

    @contextmanager
    def lock(self, key: str) -> Iterator[None]:
        """Holds the key, across processes."""
        with FileLock(self._root / f"{key}.lock"):
            yield

    def find(self, key: str) -> Path | None:
        """The whole entry, or None; a damaged one is removed. Call it with the lock held."""
        folder = self._root / key
        if not folder.exists():
            return None
        if self._is_whole(folder):
            return folder
        logger.warning("cache entry %s is damaged; it is built again", folder)
        shutil.rmtree(folder)
        return None

    @contextmanager
    def writing(self, key: str) -> Iterator[Path]:
        """Yields an empty scratch folder; leaving the block without an error publishes it as the entry."""
        scratch = Path(tempfile.mkdtemp(dir=self._root, prefix=f".{key}-"))
        try:
            yield scratch
            _write_manifest(scratch)
            scratch.chmod(0o755)
            os.rename(scratch, self._root / key)
        finally:
            if scratch.exists():
                shutil.rmtree(scratch)

    def remove(self, key: str) -> None:
        """Drops the entry of this key, if there is one."""
        with self.lock(key):
            shutil.rmtree(self._root / key, ignore_errors=True)

    def path(self, key: str) -> Path:
        """Where the entry of this key is, or will be."""
        return self._root / key

    @staticmethod
    def _is_whole(folder: Path) -> bool:
        try:
            manifest = json.loads((folder / MANIFEST).read_text())
            return all(file_sha256(folder / name) == digest for name, digest in manifest.items())
        except (OSError, ValueError) as error:
            logger.warning("cannot check %s: %s", folder, error)
            return False


def _write_manifest(folder: Path) -> None:
    files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
    for file in files:
        with file.open("rb") as stream:
            os.fsync(stream.fileno())
    manifest = folder / MANIFEST
    with manifest.open("w") as stream:
        json.dump({str(file.relative_to(folder)): file_sha256(file) for file in files}, stream)
        stream.flush()
        os.fsync(stream.fileno())
