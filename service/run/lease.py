"""Keeps hold of a running job: a heartbeat in a thread of its own, and word to the pipeline when it has to end.

With the heartbeat comes what other servers on the same database were told: what the user asks of the job, or
that they have taken it over, because this one was silent for too long.
"""

import logging
import threading
from types import TracebackType
from typing import Self

from ranksieve.search.errors import StoreError, SupersededError
from ranksieve.service.run.joblog import JobLog
from ranksieve.service.store.claims import Claims

logger = logging.getLogger(__name__)

BEATS = 6
"""Heartbeats per lease: so many in a row, less one, may fail."""


class Lease:
    """Holds a claimed job for as long as a `with` block lasts.

    Args:
        claims: Renews the lease.
        log: The job; it is told what its user asks, and to end when it was taken over.
        lease_s: Length of the lease, in seconds.
    """

    def __init__(self, claims: Claims, log: JobLog, lease_s: float) -> None:
        self._claims = claims
        self._log = log
        self._lease_s = lease_s
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="lease", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def _beat(self) -> None:
        while not self._over.wait(self._lease_s / BEATS):
            try:
                self._renew()
            except StoreError as error:
                logger.warning("job %s: its lease could not be renewed: %s", self._log.job.id, error)

    def _renew(self) -> None:
        job = self._log.job
        try:
            self._log.heed(self._claims.renew(job.id, self._lease_s, epoch=job.epoch))
        except SupersededError:
            self._log.cancelled.set()
