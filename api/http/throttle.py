"""Rate limit of each caller's requests per second."""

from math import ceil
from time import time

from limits import RateLimitItemPerSecond
from limits.storage import MemoryStorage
from limits.strategies import FixedWindowRateLimiter

from ranksieve.search.errors import LimitError


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
