"""Removes files that nobody needs any more: all of a deleted job, and what ended jobs had only half-written.

The files of a deleted job go once the store has forgotten it, so that nobody waits for the disk. The store keeps for a
while which these are: whoever is cut off in between leaves them to the next one that sweeps, and servers that share a
database may each have files of a job in a data directory of their own.
"""

import logging
import shutil
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

from ranksieve.service.store import Store

logger = logging.getLogger(__name__)

HALF_WRITTEN = ("*/model.tmp", "*/*.part", "*/refit/*.part")
"""What a killed process leaves in the folders of jobs: a model, numbers, or factors."""


def sweep(store: Store, jobs_dir: Path, remembered: timedelta) -> None:
    """Removes what is left of deleted jobs, and what is half-written of jobs that nobody runs.

    Args:
        store: Where the jobs are, or were.
        jobs_dir: Folder with one folder of files per job.
        remembered: So long after a job was deleted every server removes what it has of it.
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
            logger.warning(
                "%s is half-written and could not be removed, which is tried again: %s", path, error
            )
        else:
            logger.info("removed %s, which was half-written", path)


def _half_written(jobs_dir: Path) -> list[Path]:
    try:
        return [path for pattern in HALF_WRITTEN for path in jobs_dir.glob(pattern)]
    except OSError as error:  # a stale mount, say
        logger.warning("%s could not be looked through for what is half-written: %s", jobs_dir, error)
        return []


def remove(jobs_dir: Path, id: str) -> bool:
    """Removes the files of a deleted job; whether none are left. Those that are stay for the next `sweep`."""
    try:
        _remove(jobs_dir / id)
    except OSError as error:
        logger.warning("job %s was deleted, but not yet its files, which are tried again: %s", id, error)
        return False
    return True


def _remove(path: Path) -> None:
    while path.exists():
        with suppress(FileNotFoundError):  # another server removes it, too
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
