"""Deletion of old events, deliveries and files.

The results and the scorings of a search stay. For files see `service.run.cleanup`.
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
"""Least time between two cleanups, in seconds."""


class Retention:
    """Deletes what is past retention, if it is time to.

    Args:
        store: Store of the events and deliveries.
        days: Days that events are kept after their job's end, that deliveries are kept after their own end, and
            that servers look for files of a deleted job.
        jobs_dir: Folder with one folder of files per job.
        clock: Monotonic clock, in seconds.
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
        """Delete what is past retention, at most once an hour.

        Raises:
            StoreError: The database failed; the next call tries again.
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
