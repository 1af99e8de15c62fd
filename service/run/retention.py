"""Forgets the events of jobs that ended long ago, and deliveries; what a search found, and its result, stays.

Files that nobody needs any more go, too: see `service.run.cleanup`.
"""

import logging
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

from ranksieve.service.run import cleanup
from ranksieve.service.store import Store

logger = logging.getLogger(__name__)

EVERY_S = 3600.0
"""So often there is something to forget, in seconds, at most."""


class Retention:
    """Tidies the store up, when it is called and it is time to.

    Args:
        store: Where they are.
        days: So long events are kept after their job's end, and deliveries after theirs, and so long servers look for
            files of a deleted job.
        jobs_dir: Folder with one folder of files per job.
        clock: Seconds that only grow.
    """

    def __init__(
        self, store: Store, days: float, jobs_dir: Path, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._store = store
        self._days = days
        self._jobs_dir = jobs_dir
        self._clock = clock
        self._next_s = clock()

    def __call__(self) -> None:
        """Forgets what is past retention, unless that was done within the hour.

        Raises:
            StoreError: The database failed; it is tried again at the next call.
        """
        if self._clock() < self._next_s:
            return
        age = timedelta(days=self._days)
        forgotten = self._store.cleanup.forget_events(age)
        self._store.outbox.forget(age)
        cleanup.sweep(self._store, self._jobs_dir, age)
        self._next_s = self._clock() + EVERY_S
        if forgotten:
            logger.info("forgot %s events of jobs that ended over %g days ago", f"{forgotten:,}", self._days)
