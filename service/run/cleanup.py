"""Removal of files of deleted jobs, and of half-written files of ended jobs.

The files of a deleted job are removed after the store has forgotten it, so no request waits for the disk. The store
remembers deleted jobs for a while. A removal that was interrupted is finished by the next sweep, and servers that
share a database may each have files of a job in a data directory of their own.
"""

import logging
import shutil
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

from ranksieve.service.store import Store

logger = logging.getLogger(__name__)

HALF_WRITTEN = ("*/model.tmp", "*/*.part")
"""Half-written files of killed processes: a model, or numbers."""


def sweep(store: Store, jobs_dir: Path, remembered: timedelta) -> None:
    """Remove files of deleted jobs, and half-written files of jobs not running.

    Args:
        store: Store of the jobs.
        jobs_dir: Folder with one folder of files per job.
        remembered: Time after the deletion of a job in which servers remove its files.
    """
    store.cleanup.forget_removals(
        remembered, [id for id in store.cleanup.removals() if not remove(jobs_dir, id)]
    )
    parts = _half_written(jobs_dir)
    owners = [path.relative_to(jobs_dir).parts[0] for path in parts]
    idle = store.claims.idle(set(owners)) if owners else set()
    for path in (path for path, id in zip(parts, owners, strict=True) if id in idle):
        try:
            _remove(path)
        except OSError as error:
            logger.warning("half-written %s could not be removed, will try again: %s", path, error)
        else:
            logger.info("removed half-written %s", path)


def _half_written(jobs_dir: Path) -> list[Path]:
    try:
        return [path for pattern in HALF_WRITTEN for path in jobs_dir.glob(pattern)]
    except OSError as error:  # a stale mount, say
        logger.warning("%s could not be searched for half-written files: %s", jobs_dir, error)
        return []


def remove(jobs_dir: Path, id: str) -> bool:
    """Remove the files of a deleted job; return whether none are left.

    Remaining files are left for the next `sweep`.
    """
    try:
        _remove(jobs_dir / id)
    except OSError as error:
        logger.warning(
            "job %s was deleted, but its files could not be removed yet, will try again: %s", id, error
        )
        return False
    return True


def _remove(path: Path) -> None:
    while path.exists():
        with suppress(FileNotFoundError):  # another server removes it, too
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
