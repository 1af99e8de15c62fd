"""What is told of workers that say nothing, without Ray."""

import logging
import threading
from collections import Counter
from typing import Any, ClassVar

import pytest
import ray

from ranksieve.search.errors import CancelledError
from ranksieve.workers.cluster import phases
from ranksieve.workers.cluster.packing import Place
from ranksieve.workers.cluster.phases import run_phase


class OneWorker:
    """A share of the cluster that has room for no more."""

    excess: ClassVar = Counter[str]()

    def wait(self, cancelled: threading.Event) -> Place:
        return Place("here")

    def take(self) -> None: ...

    def require_room(self) -> None: ...


def test_the_log_tells_of_workers_that_are_silent_for_long_and_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    worker, cancelled, waits, now_s = object(), threading.Event(), iter(range(7)), [0.0]

    def wait(streams: list[Any], **_: Any) -> tuple[list[Any], list[Any]]:
        """Once there is a word, in the second of six waits of 250 s."""
        now_s[0] += 250
        number = next(waits)
        if number == 6:
            cancelled.set()
        return ([worker], []) if number == 1 else ([], streams)

    monkeypatch.setattr(ray, "wait", wait)
    monkeypatch.setattr(ray, "get", lambda item: item)
    monkeypatch.setattr(ray, "cancel", lambda stream, force: None)
    monkeypatch.setattr(phases.time, "monotonic", lambda: now_s[0])
    heard: list[Any] = []
    share: Any = OneWorker()
    monkeypatch.setattr(phases, "next", lambda stream: "word", raising=False)

    with caplog.at_level(logging.WARNING), pytest.raises(CancelledError):
        run_phase("calibration", lambda place: worker, share, cancelled, heard.append)

    assert heard == ["word"]
    assert [line.getMessage() for line in caplog.records] == [
        "phase calibration: its 1 workers have been silent for 750 s"
    ]
