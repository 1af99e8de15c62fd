"""Timing by a clock that is told what to say."""

from collections.abc import Callable
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import ranksieve.workers.cost.timing
from ranksieve.workers.cost.timing import CudaTimer, ProcessorTimer, Timed, fastest, last_of, timer_for


class ScriptedTimer:
    """Says what calls took by what they return; keeps in which order all was called."""

    def __init__(self) -> None:
        self.taken: list[int] = []
        self.log: list[object] = []

    def time(self, call: Callable[[], Any]) -> None:
        self.taken.append(call())

    def collect(self) -> list[int]:
        taken, self.taken = self.taken, []
        self.log.append("collect")
        return taken


def timed_call(timer: ScriptedTimer, name: str, *spent: int) -> Timed:
    rest = iter(spent)

    def run() -> int:
        timer.log.append(name)
        return next(rest)

    return Timed(run=run, prepare=lambda: timer.log.append(f"before {name}"))


def test_the_fastest_round_counts_but_not_the_first() -> None:
    timer = ScriptedTimer()
    calls = {"a": timed_call(timer, "a", 1, 9, 5, 7), "b": timed_call(timer, "b", 2, 30, 40, 20)}
    assert last_of(fastest(calls, timer, 3, Random(0))) == {"a": 5, "b": 20}


def test_all_take_turns_in_changing_order_and_are_prepared_before() -> None:
    timer = ScriptedTimer()
    calls = {name: timed_call(timer, name, *[1] * 9) for name in "abcd"}
    assert list(fastest(calls, timer, 8, Random(0))) == list(range(1, 9))
    rounds = " ".join(map(str, timer.log)).split("collect")[:-1]
    orders = [tuple(word for word in one.split() if len(word) == 1 and word in "abcd") for one in rounds]
    assert len(orders) == 9
    assert all(set(order) == set("abcd") for order in orders)
    assert len(set(orders)) > 4
    for one in rounds:
        words = one.replace("before ", "before-").split()
        assert all(first == f"before-{second}" for first, second in zip(words[::2], words[1::2], strict=True))


@pytest.mark.parametrize(("threads", "expected"), [(1, [30, 0]), (2, [4, 0])])
def test_one_thread_is_timed_by_its_own_clock(
    threads: int, expected: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = SimpleNamespace(own=0, wall=0)
    clock = SimpleNamespace(thread_time_ns=lambda: now.own, perf_counter_ns=lambda: now.wall)
    monkeypatch.setattr(ranksieve.workers.cost.timing, "time", clock)

    def work() -> None:
        now.own += 30
        now.wall += 4

    timer = ProcessorTimer(threads)
    timer.time(work)
    timer.time(lambda: None)
    assert timer.collect() == expected
    assert timer.collect() == []


def test_the_timer_is_that_of_the_device() -> None:
    assert isinstance(timer_for(torch.device("cpu"), 1), ProcessorTimer)
    assert isinstance(timer_for(torch.device("cuda"), 1), CudaTimer)


class FakeStream:
    """The queue of a GPU: at which millisecond it is through with what it holds."""

    def __init__(self) -> None:
        self.through = 0.0

    def wait_event(self, event: "FakeEvent") -> None:
        self.through = max(self.through, event.at)

    def wait_stream(self, other: "FakeStream") -> None:
        self.through = max(self.through, other.through)


class FakeEvent:
    def __init__(self, *, enable_timing: bool) -> None:
        assert enable_timing

    def record(self, stream: FakeStream) -> None:
        self.at = stream.through

    def elapsed_time(self, later: "FakeEvent") -> float:
        return later.at - self.at


@pytest.mark.parametrize(
    ("works", "expected"),
    [
        ([(2.0,), (3.0,)], [2, 3]),
        ([(2.0, 7.0)], [7]),
        ([(7.0, 2.0)], [7]),
        ([(0.0, 4.0), (1.0, 5.0), (6.0, 0.0)], [4, 5, 6]),
        ([(1.0, 2.0, 9.0), (3.0, 3.0, 3.0)], [9, 3]),
    ],
)
def test_a_call_ends_when_all_gpus_are_through_with_it_and_none_begins_the_next_before(
    works: list[tuple[float, ...]], expected: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    streams = [FakeStream() for _ in works[0]]
    monkeypatch.setattr(torch.cuda, "Event", FakeEvent)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: streams[device.index])
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(streams))
    timer = timer_for(torch.device("cuda"), 1)

    def launch(work: tuple[float, ...]) -> None:
        for stream, milliseconds in zip(streams, work, strict=True):
            stream.through += milliseconds

    for work in works:
        timer.time(lambda work=work: launch(work))  # type: ignore[misc]
    assert timer.collect() == [1_000_000 * milliseconds for milliseconds in expected]
    assert timer.collect() == []


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_is_timed_by_its_own_clock() -> None:
    device = torch.device("cuda")
    small, large = (torch.randn(size, size, device=device) for size in (64, 4096))
    calls = {"small": Timed(run=lambda: small @ small), "large": Timed(run=lambda: large @ large)}
    spent = last_of(fastest(calls, timer_for(device, 1), 3, Random(0)))
    assert 0 < spent["small"] < spent["large"]
