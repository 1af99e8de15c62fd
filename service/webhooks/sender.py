"""Sender of deliveries: one thread claims them, a few make the attempts.

Several servers may send on a PostgreSQL database; each delivery belongs to one server at a time. An attempt of a
server that died is repeated once its lease has run out. So nothing is lost, and some deliveries may arrive twice,
under one id.
"""

import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Protocol

from ranksieve.search.errors import StoreError
from ranksieve.service.server.metrics import Metrics
from ranksieve.service.webhooks.messages import signed_headers, without_folders
from ranksieve.service.webhooks.outcomes import Outcome, wait_s
from ranksieve.service.webhooks.post import Post
from ranksieve.service.webhooks.webhook import TEST, DeliveryState, Sending

logger = logging.getLogger(__name__)

ATTEMPTS_AT_ONCE = 4
"""Simultaneous attempts, so that a silent URL does not delay the others."""

LEASE_S = 60.0
"""Time after which an attempt of a dead server is repeated, in seconds.

Longer than an attempt can take.
"""

LOOK_S = 30.0
"""Interval to look for deliveries of other servers or a failed database, in s."""

_SOON_S = 1.0  # another server has just claimed what was due

_COUNTED = {
    DeliveryState.DELIVERED: "delivered",
    DeliveryState.PENDING: "retried",
    DeliveryState.FAILED: "given_up",
}


class Waiting(Protocol):
    """Source of deliveries: `service.store.outbox.Outbox`."""

    def claim(self, lease_s: float) -> Sending | None:
        """Claim the next delivery to attempt."""

    def settle(self, sending: Sending, outcome: Outcome, retry_s: float | None) -> DeliveryState | None:
        """Save the outcome of an attempt."""

    def next_in_s(self) -> float | None:
        """Return the seconds until there may be something to claim."""


class Sender:
    """Sends deliveries from `start` to `stop`.

    Args:
        outbox: Source of deliveries.
        post: Makes an attempt.
        metrics: Counts the attempts.
        folders: Folders of the server, which no message names.
        lease_s: Length of the lease of an attempt, in seconds.
        look_s: Longest wait between two looks for deliveries, in seconds.
        rng: Spreads the waits between attempts.
    """

    def __init__(
        self,
        outbox: Waiting,
        post: Post,
        metrics: Metrics | None = None,
        folders: Sequence[Path] = (),
        lease_s: float = LEASE_S,
        look_s: float = LOOK_S,
        rng: Random | None = None,
    ) -> None:
        self._outbox = outbox
        self._post = post
        self._metrics = metrics or Metrics()
        self._folders = folders
        self._lease_s, self._look_s = lease_s, look_s
        self._rng = rng or Random()
        self._changed = threading.Condition()  # guards the three below
        self._news = True
        self._stopping = False
        self._under_way = 0
        self._thread: threading.Thread | None = None

    @property
    def alive(self) -> bool:
        """Whether deliveries are being sent."""
        return self._thread is not None and self._thread.is_alive()

    def start(self) -> None:
        """Start sending, first the deliveries of an earlier server."""
        self._stopping, self._news = False, True
        self._thread = threading.Thread(target=self._run, name="webhooks", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Begin no more attempts, and wait for the running ones."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def wake(self) -> None:
        """Signal that there may be something to send; from any thread."""
        with self._changed:
            self._news = True
            self._changed.notify_all()

    def _run(self) -> None:
        try:
            with ThreadPoolExecutor(ATTEMPTS_AT_ONCE, thread_name_prefix="webhook") as attempts:
                wait = 0.0
                while self._wait(wait):
                    wait = self._claim_what_is_due(lambda sending: attempts.submit(self._attempt, sending))
        except Exception:
            logger.exception("the sender of webhooks ended unexpectedly; restart the server to continue")

    def _wait(self, timeout_s: float) -> bool:
        """Wait for news and for a free slot; return False when it is time to stop."""
        with self._changed:
            self._changed.wait_for(lambda: self._news or self._stopping, timeout=timeout_s)
            self._news = False
            self._changed.wait_for(lambda: self._under_way < ATTEMPTS_AT_ONCE or self._stopping)
            return not self._stopping

    def _claim_what_is_due(self, submit: Callable[[Sending], object]) -> float:
        """Submit due deliveries while there is room; return the wait for the next, in s."""
        try:
            while self._has_room():
                due_s = self._outbox.next_in_s()
                if due_s is None or due_s > 0:
                    return self._look_s if due_s is None else min(due_s, self._look_s)
                sending = self._outbox.claim(self._lease_s)
                if sending is None:
                    return _SOON_S
                with self._changed:
                    self._under_way += 1
                submit(sending)
        except StoreError as error:
            logger.warning("webhooks wait until the database is back: %s", error)
            return self._look_s
        return 0.0

    def _has_room(self) -> bool:
        with self._changed:
            return self._under_way < ATTEMPTS_AT_ONCE and not self._stopping

    def _attempt(self, sending: Sending) -> None:
        try:
            self._keep(sending, self._outcome(sending))
        except StoreError as error:
            logger.warning(
                "delivery %s: its attempt could not be recorded and will be repeated: %s", sending.id, error
            )
        except Exception:  # the pool drops exceptions of its threads
            logger.exception(
                "delivery %s: its attempt could not be recorded and will be repeated", sending.id
            )
        finally:
            with self._changed:
                self._under_way -= 1
            self.wake()

    def _outcome(self, sending: Sending) -> Outcome:
        try:
            payload = without_folders(sending.payload, self._folders)
            headers = signed_headers(sending.id, payload, sending.secrets, datetime.now(UTC))
            return self._post(sending.url, headers, payload.encode())
        except Exception as error:
            logger.exception("delivery %s: this server failed to attempt it", sending.id)
            return Outcome(error=f"the server failed to send it: {type(error).__name__}")

    def _keep(self, sending: Sending, outcome: Outcome) -> None:
        last = outcome.error is None or outcome.gone or sending.type == TEST
        retry_s = None if last else wait_s(sending.attempt, self._rng)
        state = self._outbox.settle(sending, outcome, retry_s)
        if state is not None:
            self._metrics.sent(_COUNTED[state])
        if outcome.error is not None:
            details = (sending.id, sending.webhook_id, sending.attempt, outcome.error)
            logger.info("delivery %s to webhook %s: attempt %s: %s", *details)
