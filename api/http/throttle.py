"""Limits of each caller: its requests per second, and those open at once."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from math import ceil
from time import time

from limits import RateLimitItemPerSecond
from limits.storage import MemoryStorage
from limits.strategies import FixedWindowRateLimiter

from ranksieve.search.errors import LimitError

CALLERS = 4
"""Callers that it takes to hold all connections: each may have a quarter of them."""


def connections_of_one(connections: int) -> int:
    """Return how many of a server's connections one caller may have."""
    return max(1, connections // CALLERS)


class Throttle:
    """Rate limiter in this process, with windows of a second per caller.

    Args:
        per_second: Most requests of one caller; 0 for no limit.
    """

    def __init__(self, per_second: int) -> None:
        self._limiter = FixedWindowRateLimiter(MemoryStorage())
        self._most = RateLimitItemPerSecond(per_second) if per_second else None

    def count(self, caller: str) -> None:
        """Count a request.

        Args:
            caller: The id of a key, or an address.

        Raises:
            LimitError: It is one too many; it was not counted.
        """
        if self._most is None or self._limiter.hit(self._most, caller):
            return
        free_at_s = self._limiter.get_window_stats(self._most, caller).reset_time
        raise LimitError(
            f"more than {self._most.amount} requests in a second; send fewer at once",
            retry_after_s=max(1, ceil(free_at_s - time())),
        )


class OpenRequests:
    """Requests of each caller that are not yet answered; each holds a connection.

    Not for several threads.

    Args:
        most: Most of one caller.
    """

    RETRY_AFTER_S = 5

    def __init__(self, most: int) -> None:
        self._most = most
        self._open: Counter[str] = Counter()

    @contextmanager
    def count(self, caller: str) -> Iterator[None]:
        """Count a request while it is open.

        Args:
            caller: The id of a key, or an address.

        Raises:
            LimitError: It is one too many; it was not counted.
        """
        if self._open[caller] >= self._most:
            raise LimitError(
                f"{self._most} requests are open; wait for some to end, or close connections",
                self.RETRY_AFTER_S,
            )
        self._open[caller] += 1
        try:
            yield
        finally:
            self._open[caller] -= 1
            if not self._open[caller]:
                del self._open[caller]
