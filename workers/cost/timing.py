"""How long calls take on a device: all in turn, round after round, the fastest of each.

Other work on the machine only ever adds time, so the fastest of several repetitions is the one it disturbed least; in
turn, because a machine that is busy for a while is then busy for all of them. Every round is in an order of its own,
so that no call always finds the caches as the same other one leaves them. By the time a call's turn comes again, the
others have pushed its weights out, as the rest of a model does.
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
    """Times calls. What they took is asked for when all are made: a GPU is behind the processor that feeds it."""

    def time(self, call: Callable[[], object]) -> None: ...

    def collect(self) -> list[int]:
        """Nanoseconds of each call since the last time, in their order."""
        ...


MakeTimer = Callable[[torch.device, int], Timer]
"""Makes the timer of a device, for so many threads of torch."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Timed:
    """A call to time, and what comes before it and is not timed."""

    run: Callable[[], object]
    prepare: Callable[[], object] = lambda: None


class ProcessorTimer:
    """Times what is done when the call returns.

    Args:
        threads: Of torch. A single one is the caller's own, whose time on the processor is counted: that is what it
            takes on an idle machine, also while others compete for it. With more, the time that passes.
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
    """Times by events in the queues of the GPUs that a model is spread over.

    A call starts when all of them are through with what came before, and has ended when all are through with it. The
    queues are not waited for between calls, as they are not inside a model: a call that computes longer than it takes
    to launch counts what it computes, a shorter one what it takes to launch.

    Args:
        devices: The first of them has the clock.
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
    """The timer of a device, for so many threads of torch."""
    return CudaTimer(given(device)) if device.type == "cuda" else ProcessorTimer(threads)


def fastest(
    calls: Mapping[Key, Timed], timer: Timer, rounds: int, rng: Random
) -> Generator[int, None, dict[Key, int]]:
    """Times calls in turn, after a round that is not counted.

    Args:
        calls: By any names.
        timer: Of their device.
        rounds: How often each is timed, at least once.
        rng: Orders every round.

    Yields:
        How many rounds are done.

    Returns:
        The fewest nanoseconds of each.
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
    """What `fastest` returns, for those whom its rounds do not concern."""
    while True:
        try:
            next(rounds)
        except StopIteration as ended:
            found: dict[Key, int] = ended.value
            return found
