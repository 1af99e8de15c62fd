"""A cache of folders on disk, keyed by content and kept to a size.

An entry becomes visible in one rename, after its files are on the disk. A manifest of checksums distinguishes a whole
entry from a damaged one, which is dropped and built again. Two processes that want the same key share one
computation: the second waits for the first.

When an entry is published, those used longest ago are evicted until the limit is kept. A user of entries holds a
lease: nothing that was found or published since the oldest lease began is evicted. Locks and leases are locks of the
kernel, so those of a killed process are released. The next writer removes the scratch folders that it left.
"""

import errno
import hashlib
import json
import logging
import math
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ranksieve.search.errors import InfrastructureError
from ranksieve.workers.cache.checksums import Checksums
from ranksieve.workers.cache.leases import Leases
from ranksieve.workers.cache.manifest import MANIFEST, is_whole, write_manifest

logger = logging.getLogger(__name__)

LOCKS = "locks"
"""Folder of the locks of keys, apart from the entries.

It has one for every key that ever existed. If the file of a lock were removed, the lock could be held twice.
"""

CHECKSUMS = "checksums"
"""Folder of what each node knows of the entries' files."""

GIB = 2**30


def content_key(kind: str, *parts: Any) -> str:
    """Return a key from JSON-able parts; equal parts give equal keys.

    It begins with the kind, for listings of the cache.
    """
    encoded = json.dumps([kind, *parts], sort_keys=True, separators=(",", ":")).encode()
    return f"{kind}-{hashlib.sha256(encoded).hexdigest()[:32]}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """An entry on the disk; `last_use_ns` counts from the epoch."""

    key: str
    size_bytes: int
    last_use_ns: int


class FolderCache:
    """Folders under `root`, one per key.

    Args:
        root: Folder of the entries; made if missing.
        limit_bytes: Largest size of all entries together. Only entries in use, or one being written, may exceed it.
    """

    def __init__(self, root: Path, limit_bytes: float = math.inf) -> None:
        self._root = root
        self.limit_bytes = limit_bytes
        self.checksums = Checksums(root / CHECKSUMS)
        self._leases = Leases(root)
        root.mkdir(parents=True, exist_ok=True)

    @contextmanager
    def lock(self, key: str) -> Iterator[None]:
        """Hold the key, across processes.

        An entry is read and checked before, so that nobody waits for that.
        """
        if self.has(key):
            is_whole(self.path(key), self.checksums)
        with self._key_lock(key):
            yield

    @contextmanager
    def claim(self, key: str) -> Iterator[bool]:
        """Hold the key if it is free; yield whether it is held."""
        with ExitStack() as held:
            try:
                held.enter_context(self._key_lock(key, timeout_s=0))
            except Timeout:
                claimed = False
            else:
                claimed = True
            yield claimed

    def has(self, key: str) -> bool:
        """Return whether there is an entry; only `find` checks whether it is whole."""
        return self.path(key).exists()

    def lease(self) -> AbstractContextManager[None]:
        """Keep everything found or published from here on, by any process.

        It is kept until the block or the process ends.
        """
        return self._leases.hold()

    def find(self, key: str) -> Path | None:
        """Return the whole entry, or None; remove a damaged one.

        Call it with the lock held.
        """
        folder = self.path(key)
        if not folder.exists():
            return None
        if is_whole(folder, self.checksums):
            self._record_use(folder)
            return folder
        logger.warning("cache entry %s is damaged or of an older version; building it again", folder)
        self._drop(key)
        return None

    @contextmanager
    def writing(self, key: str) -> Iterator[Path]:
        """Yield an empty scratch folder and publish it as the entry.

        It is published when the block is left without an error. Call it with the lock held.

        Raises:
            InfrastructureError: The disk is full.
        """
        self._sweep(key)
        try:
            with self._scratch(key) as scratch:
                yield scratch
                checksums = write_manifest(scratch)
                scratch.chmod(0o755)
                self._record_use(scratch)
                os.rename(scratch, self.path(key))
                written = {self.path(key) / name: checksum for name, checksum in checksums.items()}
                self.checksums.record(key, written)
        except Exception as error:
            if not _is_disk_full(error):
                raise
            raise InfrastructureError(self._disk_full(key)) from error
        self.shrink(self.limit_bytes)

    def remove(self, key: str) -> None:
        """Remove the entry of this key, if there is one."""
        with self._key_lock(key):
            self._drop(key)

    def path(self, key: str) -> Path:
        """Return the path of the present or future entry of this key."""
        return self._root / key

    def entries(self) -> list[Entry]:
        """Return all entries, the one used longest ago first."""
        found = (_entry(manifest.parent) for manifest in self._root.glob(f"[!.]*/{MANIFEST}"))
        return sorted((entry for entry in found if entry is not None), key=lambda entry: entry.last_use_ns)

    def shrink(self, limit_bytes: float) -> list[Entry]:
        """Evict entries used longest ago until the others fit the limit.

        Entries in use stay: those whose key is locked, or that were used since the oldest lease began.

        Args:
            limit_bytes: Limit for all entries together; 0 evicts everything that is not in use.

        Returns:
            The evicted entries.
        """
        self._sweep()
        evicted: list[Entry] = []
        with self._leases.frozen() as leased_since_ns:  # no lease can begin here, so be quick
            entries = self.entries()
            held_bytes = sum(entry.size_bytes for entry in entries)
            for entry in entries:
                if held_bytes <= limit_bytes or entry.last_use_ns >= leased_since_ns:
                    break
                if self._evict(entry):
                    evicted.append(entry)
                    held_bytes -= entry.size_bytes
        if evicted:
            self._sweep()
        if held_bytes > limit_bytes > 0:
            logger.warning(
                "the cache %s holds %.2f GiB, more than its limit of %.2f GiB: all entries left are in use",
                self._root,
                held_bytes / GIB,
                limit_bytes / GIB,
            )
        return evicted

    def _evict(self, entry: Entry) -> bool:
        """Hide an entry, and return whether it was evicted.

        It stays if its key is locked or if it was used since it was listed.
        """
        with suppress(Timeout, FileNotFoundError), self._key_lock(entry.key, timeout_s=0):
            if self.path(entry.key).stat().st_mtime_ns == entry.last_use_ns:
                self._hide(entry.key)
                logger.info("evicted %s, %.2f GiB, from the cache", entry.key, entry.size_bytes / GIB)
                return True
        return False

    def _drop(self, key: str) -> None:
        """Remove an entry, hidden first, so that no half of it is ever seen."""
        with suppress(FileNotFoundError):
            shutil.rmtree(self._hide(key))

    def _hide(self, key: str) -> Path:
        """Hide an entry where `_sweep` finds it; return its new path."""
        self.checksums.forget(key)
        return self.path(key).rename(self._root / f".{key}-{uuid.uuid4().hex}")

    @contextmanager
    def _scratch(self, key: str) -> Iterator[Path]:
        scratch = Path(tempfile.mkdtemp(dir=self._root, prefix=f".{key}-"))
        try:
            yield scratch
        finally:
            if scratch.exists():
                shutil.rmtree(scratch)

    def _sweep(self, held_key: str | None = None) -> None:
        """Remove what killed processes left half-written or half-removed.

        Only unlocked keys, and the caller's, are swept.
        """
        for scratch in self._root.glob(".*-*"):
            key = scratch.name[1:].rpartition("-")[0]
            with suppress(Timeout), nullcontext() if key == held_key else self._key_lock(key, timeout_s=0):
                if scratch.exists():
                    shutil.rmtree(scratch)

    def _record_use(self, folder: Path) -> None:
        """Mark the folder as used now.

        The time is never before the beginning of a lease, even if clocks of users differ.
        """
        stamp_ns = max(time.time_ns(), self._leases.newest_ns())
        os.utime(folder, ns=(stamp_ns, stamp_ns))

    def _key_lock(self, key: str, timeout_s: float = -1) -> FileLock:
        return FileLock(self._root / LOCKS / f"{key}.lock", timeout=timeout_s)

    def _disk_full(self, key: str) -> str:
        held_gib = sum(entry.size_bytes for entry in self.entries()) / GIB
        return (
            f"no space left on the disk to write {key}: the cache {self._root} holds {held_gib:.2f} GiB, its "
            f"limit is {self.limit_bytes / GIB:g} GiB; free some space, run `ranksieve cache clear`, or lower "
            "RANKSIEVE_CACHE_LIMIT_GIB"
        )


def _entry(folder: Path) -> Entry | None:
    """Return the entry in a folder, or None if it has just been removed.

    A file linked from several entries counts in part for each.
    """
    try:
        files = [file.stat() for file in folder.rglob("*") if file.is_file()]
        return Entry(
            key=folder.name,
            size_bytes=sum(file.st_size // file.st_nlink for file in files),
            last_use_ns=folder.stat().st_mtime_ns,
        )
    except FileNotFoundError:
        return None


def _is_disk_full(error: Exception) -> bool:
    """Return whether an error was raised for lack of disk space.

    Writers in Rust (safetensors, tokenizers) say so only in their message.
    """
    if isinstance(error, OSError):
        return error.errno in {errno.ENOSPC, errno.EDQUOT}
    return f"os error {errno.ENOSPC})" in str(error)
