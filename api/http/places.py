"""Places for checks of job files, shared fairly by owners."""

import asyncio
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from threading import Event
from typing import TypeVar

from anyio import CapacityLimiter, to_thread
from fastapi import Request

from ranksieve.search.errors import LimitError

R = TypeVar("R")

PLACES = 8
"""Checks that run at once; more of them wait without blocking anything else."""

OWNER_PLACES = PLACES // 4
"""Checks of one owner that run at once."""

OWNER_WAITING = 100
"""Checks of one owner that wait."""

RETRY_AFTER_S = 5


class Places:
    """Places of one server."""

    def __init__(self) -> None:
        self._all = CapacityLimiter(PLACES)
        self._of_owner: defaultdict[str, CapacityLimiter] = defaultdict(lambda: CapacityLimiter(OWNER_PLACES))

    async def run(self, request: Request, owner: str, check: Callable[[Event], R]) -> R:
        """Run a check in a thread, once its owner has a place.

        Args:
            request: The request; when its client leaves, the check is cancelled.
            owner: Owner of the request.
            check: Called with an event that is set to cancel it.

        Raises:
            LimitError: Too many checks of the owner wait.
            CancelledError: The client left.
        """
        own, cancelled = self._of_owner[owner], Event()
        if own.borrowed_tokens + own.statistics().tasks_waiting >= OWNER_PLACES + OWNER_WAITING:
            raise LimitError(
                f"{OWNER_WAITING} job files of {owner} wait to be checked; send fewer at once", RETRY_AFTER_S
            )
        leaving = asyncio.create_task(_cancel_at_end(request, cancelled))
        try:
            async with own:
                return await to_thread.run_sync(
                    partial(check, cancelled), limiter=self._all, abandon_on_cancel=True
                )
        finally:
            leaving.cancel()
            cancelled.set()  # where the server ends


async def _cancel_at_end(request: Request, cancelled: Event) -> None:
    """Set the event when the client leaves."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
    cancelled.set()
