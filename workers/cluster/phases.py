"""Worker processes of a phase, followed to its result.

Their number follows the job's share of the cluster. Workers divide the work among themselves, so that more may join
at any time, and the others do what one leaves undone.
"""

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from ranksieve.search.errors import CancelledError, InfrastructureError, RanksieveError
from ranksieve.workers.cluster.shares import Share
from ranksieve.workers.machine.devices import LESS_MEMORY, accelerator_fault, lack_of_memory
from ranksieve.workers.types.progress import Progress

logger = logging.getLogger(__name__)

POLL_S = 0.2

SILENT_S = 600.0
"""Seconds of silence of all workers after which the log warns, repeatedly.

Silence is no failure: factoring the largest matrices takes as long on few processors.
"""

MOST_DEATHS = 3
"""Number of deaths in a phase after which no more workers join.

Whatever kills them may kill all.
"""


class Furthest:
    """Filter that passes on progress only if it is further than before.

    All workers report on the same work.
    """

    def __init__(self, on_progress: Callable[[Progress], None]) -> None:
        self._on_progress = on_progress
        self._done: dict[str, int] = {}

    def __call__(self, item: Any) -> None:
        if isinstance(item, Progress) and item.done > self._done.get(item.phase, -1):
            self._done[item.phase] = item.done
            self._on_progress(item)


def run_phase(
    phase: str,
    start: Callable[[], Any],
    share: Share,
    cancelled: threading.Event,
    on_item: Callable[[Any], None],
) -> Any:
    """Follow the workers of a phase until all have ended; return the last result.

    Args:
        phase: Name of the phase.
        start: Function that starts a worker and returns the stream of its items.
        share: The job's share of the cluster; the job already holds one actor.
        cancelled: Set when the job must end; checked every 0.2 s.
        on_item: Called with every item of a worker.

    Raises:
        CancelledError: `cancelled` was set; the workers are killed.
        NoRoomError: The nodes that had room have gone.
        InfrastructureError: All workers died, or one lost its accelerator or ran out of memory.
    """
    last: dict[Any, Any] = {start(): None}  # last items of running workers, the oldest first
    may_join, deaths, result = True, 0, None
    heard_s, warned = time.monotonic(), 0
    try:
        while last:
            while may_join and share.take():
                last[start()] = None
            for _ in range(min(share.excess, len(last) - 1)):
                ray.cancel(last.popitem()[0], force=True)
                share.give_back()
            ready, _ = ray.wait(list(last), timeout=POLL_S, fetch_local=False)
            if cancelled.is_set():
                raise CancelledError("the job was cancelled")
            share.require_room()
            if ready:
                heard_s, warned = time.monotonic(), 0
            elif (silent_s := time.monotonic() - heard_s) > SILENT_S * (warned + 1):
                warned += 1
                logger.warning(
                    "phase %s: its %d workers have been silent for %.0f s", phase, len(last), silent_s
                )
            for stream in ready:
                try:
                    last[stream] = ray.get(next(stream))
                    on_item(last[stream])
                    continue
                except StopIteration:
                    result, may_join = last.pop(stream), False  # there is nothing left to do
                except RayTaskError as error:
                    del last[stream]
                    if isinstance(error.cause, RanksieveError | OSError):
                        raise error.cause from error
                    if (lack := lack_of_memory(error.cause)) is not None:
                        raise InfrastructureError(f"phase {phase}: {lack}; {LESS_MEMORY}") from error
                    if (fault := accelerator_fault(error.cause)) is not None:
                        raise InfrastructureError(f"the worker of phase {phase} {fault}") from error
                    raise
                except RayError as error:
                    del last[stream]
                    if not last and result is None:
                        raise InfrastructureError(f"the worker of phase {phase} died: {error}") from error
                    logger.warning("a worker of phase %s died, the others continue: %s", phase, error)
                    deaths += 1
                    may_join = may_join and deaths <= MOST_DEATHS
                share.give_back()
                if not may_join:
                    share.use(max(1, len(last)))
    finally:
        for stream in last:  # not workers that have ended: their process may be at other work
            ray.cancel(stream, force=True)
    return result
