"""Wake-ups for readers of a job's events, without polling.

Writers are threads (the controller, the HTTP threadpool); readers are coroutines. A reader subscribes,
then reads a page, then waits: a commit after its read wakes it, so nothing is missed. A writer wakes each event loop
once, however many readers it has, so readers do not slow down the search.

    async with feed.subscribe(job_id) as subscription:
        while True:
            events = store.events(job_id, after=seen)
            ...
            await subscription.wait(timeout_s=15)
"""

import asyncio
import contextlib
import threading
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable


class Subscription:
    """One reader's wake-ups for one job.

    Created and awaited in the reader's event loop.
    """

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._news = asyncio.Event()
        self.edition = 0
        """Number of the last news.

        A page read at an edition holds all news up to it, so readers at the same edition can share it.
        """

    def wake(self) -> None:
        """Signal news; called in the reader's loop."""
        self._news.set()

    async def wait(self, timeout_s: float) -> bool:
        """Wait for news since the last wait that returned True.

        Args:
            timeout_s: Longest wait, in seconds.

        Returns:
            True on news; False when the time ran out.
        """
        try:
            async with asyncio.timeout(timeout_s):
                await self._news.wait()
        except TimeoutError:
            return False
        self._news.clear()
        return True


class Feed:
    """Subscriptions of readers, by job."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._edition = 0
        self._subscriptions: defaultdict[str, set[Subscription]] = defaultdict(set)

    def notify(self, job_id: str) -> None:
        """Wake every reader of this job; from any thread. Fits `Base.listener`."""
        with self._lock:
            self._edition += 1
            waiting = tuple(self._subscriptions.get(job_id, ()))
            for subscription in waiting:
                subscription.edition = self._edition
        for loop in {subscription.loop for subscription in waiting}:
            # RuntimeError: the loop closed with readers still subscribed; no reader is left to wake.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(_wake_those_in, loop, waiting)

    @contextlib.asynccontextmanager
    async def subscribe(self, job_id: str) -> AsyncIterator[Subscription]:
        """Subscribe to this job's news for the block."""
        subscription = Subscription()
        with self._lock:
            subscription.edition = self._edition
            self._subscriptions[job_id].add(subscription)
        try:
            yield subscription
        finally:
            with self._lock:
                self._subscriptions[job_id].remove(subscription)
                if not self._subscriptions[job_id]:
                    del self._subscriptions[job_id]


def _wake_those_in(loop: asyncio.AbstractEventLoop, waiting: Iterable[Subscription]) -> None:
    for subscription in waiting:
        if subscription.loop is loop:
            subscription.wake()
