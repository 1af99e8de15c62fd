"""Worker processes of a phase, followed to its result.

Their number follows the job's share of the cluster. Workers divide the work among themselves, so that more may join
at any time, and the others do what one leaves undone.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import wraps
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from ranksieve.search.errors import CancelledError, InfrastructureError, InputError, RanksieveError
from ranksieve.workers.cluster.actor import hold_to_part
from ranksieve.workers.cluster.packing import Place
from ranksieve.workers.cluster.shares import Share
from ranksieve.workers.machine.devices import LESS_MEMORY, accelerator_fault, give_memory_back, lack_of_memory
from ranksieve.workers.machine.faults import machine_fault
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


@dataclass(kw_only=True, slots=True)
class _Worker:
    """A running worker; `last` is its last item."""

    place: Place
    last: Any = None


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
    start: Callable[[Place], Any],
    share: Share,
    cancelled: threading.Event,
    on_item: Callable[[Any], None],
) -> Any:
    """Follow the workers of a phase until all have ended; return the last result.

    Args:
        phase: Name of the phase.
        start: Function that starts a worker at a place and returns the stream of its items.
        share: The job's share of the cluster.
        cancelled: Set when the job must end; checked every 0.2 s.
        on_item: Called with every item of a worker.

    Raises:
        CancelledError: `cancelled` was set; the workers are killed.
        NoRoomError: The nodes that had room have gone.
        InfrastructureError: All workers died, or one lost its accelerator or ran out of memory.
    """
    first = share.wait(cancelled)
    workers = {start(first): _Worker(place=first)}  # the oldest first
    may_join, deaths, result = True, 0, None
    heard_s, warned = time.monotonic(), 0
    try:
        while workers:
            while may_join and (place := share.take()) is not None:
                workers[start(place)] = _Worker(place=place)
            for stream in _superfluous(workers, share):
                ray.cancel(stream, force=True)
                share.give_back(workers.pop(stream).place)
            ready, _ = ray.wait(list(workers), timeout=POLL_S, fetch_local=False)
            if cancelled.is_set():
                raise CancelledError("the job was cancelled")
            share.require_room()
            if ready:
                heard_s, warned = time.monotonic(), 0
            elif (silent_s := time.monotonic() - heard_s) > SILENT_S * (warned + 1):
                warned += 1
                logger.warning(
                    "phase %s: its %d workers have been silent for %.0f s", phase, len(workers), silent_s
                )
            for stream in ready:
                worker = workers[stream]
                try:
                    worker.last = ray.get(next(stream))
                    on_item(worker.last)
                    continue
                except StopIteration:
                    del workers[stream]
                    result, may_join = worker.last, False  # there is nothing left to do
                except RayTaskError as error:
                    del workers[stream]
                    if isinstance(error.cause, RanksieveError | OSError):
                        raise error.cause from error
                    if (lack := lack_of_memory(error.cause)) is not None:
                        raise InfrastructureError(f"phase {phase}: {lack}; {LESS_MEMORY}") from error
                    if (fault := accelerator_fault(error.cause)) is not None:
                        raise InfrastructureError(f"the worker of phase {phase} {fault}") from error
                    raise
                except RayError as error:
                    del workers[stream]
                    if not workers and result is None:
                        raise InfrastructureError(f"the worker of phase {phase} died: {error}") from error
                    logger.warning("a worker of phase %s died, the others continue: %s", phase, error)
                    deaths += 1
                    may_join = may_join and deaths <= MOST_DEATHS
                share.give_back(worker.place)
                if not may_join:
                    share.use(max(1, len(workers)))
    finally:
        for stream in workers:  # not workers that have ended: their process may be at other work
            ray.cancel(stream, force=True)
    return result


def _superfluous(workers: Mapping[Any, _Worker], share: Share) -> list[Any]:
    """Return the workers to end: the youngest of nodes with too many, but never all."""
    excess, ended = share.excess, list[Any]()
    for stream, worker in reversed(list(workers.items())):
        if excess[worker.place.node] and len(ended) < len(workers) - 1:
            excess[worker.place.node] -= 1
            ended.append(stream)
    return ended


def tidied(phase: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
    """Return a phase whose process frees its memory when the phase has ended.

    A machine fault behind an input error is raised as such, because only the message of an input error leaves the
    process.
    """

    @wraps(phase)
    def run(*arguments: Any) -> Iterator[Any]:
        hold_to_part()
        try:
            yield from phase(*arguments)
        except InputError as error:
            if (fault := machine_fault(error)) is not None:
                raise fault from error
            raise
        finally:
            give_memory_back()

    return run
