"""Lease of a running job, renewed by a heartbeat in a thread of its own.

Each heartbeat also reads the requests of users to other servers on the same database. It notices if another server
has taken the job over because this one was silent for too long.
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
"""Heartbeats per lease; all but one in a row may fail."""


class Lease:
    """Hold on a claimed job for a `with` block.

    Args:
        claims: Renews the lease.
        log: The job. It is updated at every heartbeat, and cancelled when it was taken over.
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
            self._log.update(self._claims.renew(job.id, self._lease_s, epoch=job.epoch))
        except SupersededError:
            self._log.cancelled.set()
