"""Timing of calls on a device: in turn, round after round, the fastest of each.

Other work on the machine only ever adds time, so the fastest of several repetitions is the least disturbed one. Calls
take turns, because a machine that is busy for a while is then busy for all of them. Every round has an order of its
own, so that no call always finds the caches as the same other call leaves them. By the time a call's turn comes
again, the others have pushed its weights out of the caches, as the rest of a model does.
"""

import time
from collections.abc import Callable, Generator, Hashable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Protocol, TypeVar

import torch

from ranksieve.workers.machine.devices import given

Key = TypeVar("Key", bound=Hashable)


class Timer(Protocol):
    """Timer of calls.

    Times are collected after all calls, because a GPU lags behind the processor that feeds it.
    """

    def time(self, call: Callable[[], object]) -> None: ...

    def collect(self) -> list[int]:
        """Return the nanoseconds of each call since the last collection, in order."""
        ...


MakeTimer = Callable[[torch.device, int], Timer]
"""Function that returns the timer of a device and a number of torch's threads."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Timed:
    """A call to time, and its untimed preparation."""

    run: Callable[[], object]
    prepare: Callable[[], object] = lambda: None


class ProcessorTimer:
    """Timer of calls that are done when they return.

    Args:
        threads: Number of torch's threads. With one, the caller's own, its processor time is counted, which is the
            same on an idle and on a busy machine. With more, elapsed time is counted.
    """

    def __init__(self, threads: int) -> None:
        self._clock_ns = time.thread_time_ns if threads == 1 else time.perf_counter_ns
        self._taken: list[int] = []

    def time(self, call: Callable[[], object]) -> None:
        started = self._clock_ns()
        call()
        self._taken.append(self._clock_ns() - started)

    def collect(self) -> list[int]:
        taken, self._taken = self._taken, []
        return taken


class CudaTimer:
    """Timer by events in the queues of the GPUs that a model is spread over.

    A call starts when all GPUs have finished earlier work, and ends when all have finished the call. As inside a
    model, the queues are not waited for between calls. A call that computes longer than it takes to launch counts its
    computing time, a shorter one its launch time.

    Args:
        devices: GPUs of the model; the first one has the clock.
    """

    def __init__(self, devices: Sequence[torch.device]) -> None:
        self._devices = devices
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    def time(self, call: Callable[[], object]) -> None:
        first, *others = map(torch.cuda.current_stream, self._devices)
        started, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        started.record(first)
        for other in others:
            other.wait_event(started)
        call()
        for other in others:
            first.wait_stream(other)
        ended.record(first)
        self._events.append((started, ended))

    def collect(self) -> list[int]:
        torch.cuda.synchronize(self._devices[0])
        taken = [round(1e6 * started.elapsed_time(ended)) for started, ended in self._events]
        self._events = []
        return taken


def timer_for(device: torch.device, threads: int) -> Timer:
    """Return the timer of a device and a number of torch's threads."""
    return CudaTimer(given(device)) if device.type == "cuda" else ProcessorTimer(threads)


def fastest(
    calls: Mapping[Key, Timed], timer: Timer, rounds: int, rng: Random
) -> Generator[int, None, dict[Key, int]]:
    """Time calls in turn, after a round that is not counted.

    Args:
        calls: Calls by any key.
        timer: Timer of their device.
        rounds: Number of times that each is timed, at least one.
        rng: Source of the order of every round.

    Yields:
        The number of finished rounds.

    Returns:
        The fewest nanoseconds of each call.
    """
    order, best = list(calls), dict[Key, int]()
    for done in range(rounds + 1):
        rng.shuffle(order)
        for key in order:
            calls[key].prepare()
            timer.time(calls[key].run)
        taken = timer.collect()
        if done:
            best = {key: min(best.get(key, spent), spent) for key, spent in zip(order, taken, strict=True)}
            yield done
    return {key: best[key] for key in calls}


def last_of(rounds: Generator[int, None, dict[Key, int]]) -> dict[Key, int]:
    """Return the result of `fastest`, ignoring its progress."""
    while True:
        try:
            next(rounds)
        except StopIteration as ended:
            found: dict[Key, int] = ended.value
            return found
