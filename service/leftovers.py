"""Removes the files of deleted jobs: once the store has forgotten the job, so that nobody waits for the disk.

The store keeps which are still to be removed. Whoever is cut off in between leaves them to the next one that sweeps.
"""

import logging
import shutil
from contextlib import suppress
from pathlib import Path

from service.store import Store

logger = logging.getLogger(__name__)


def sweep(store: Store, jobs_dir: Path) -> None:
    """Removes the files that are left of deleted jobs.

    Args:
        store: Where the jobs were.
        jobs_dir: Folder with one folder of files per job.
    """
    for id in store.removals():
        remove(store, jobs_dir, id)


def remove(store: Store, jobs_dir: Path, id: str) -> None:
    """Removes the files of a deleted job; those that cannot be removed now stay for the next `sweep`."""
    try:
        _remove(jobs_dir / id)
    except OSError as error:
        logger.warning("job %s was deleted, but not yet its files, which are tried again: %s", id, error)
    else:
        store.removed(id)


def _remove(folder: Path) -> None:
    while folder.exists():
        with suppress(FileNotFoundError):  # another server removes them, too
            shutil.rmtree(folder)
