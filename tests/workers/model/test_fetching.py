"""A model of a hub of its own, fetched in a process that ends with its job."""

import signal
import threading
from collections.abc import Callable
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import psutil
import pytest

from ranksieve.search.errors import CancelledError, InfrastructureError, InputError
from ranksieve.workers.model import fetching
from ranksieve.workers.model.fetching import fetch
from ranksieve.workers.model.sources import resolve
from ranksieve.workers.types.plan import ModelSource
from ranksieve.workers.types.progress import Progress

MOST_S = 400
"""Longest wait for a process to start, on however busy a machine."""

LARGE = "merges.txt"  # as large as a model's weights, without being any


@pytest.fixture
def large(served: Any) -> Any:
    """The hub, whose model has five million bytes more."""
    served.push({**served.files[served.commits[served.ID]["main"]], LARGE: bytes(5 * 10**6)}, "main")
    return served


@pytest.fixture
def source(served: Any) -> ModelSource:
    return ModelSource(kind="hub", location=served.ID)


@pytest.fixture
def at_half(large: Any) -> Callable[[Callable[[], object]], threading.Thread]:
    """Does something once half of the large file is here; the rest is held back until `go` is set."""
    large.held = LARGE

    def begin(act: Callable[[], object]) -> threading.Thread:
        thread = threading.Thread(target=lambda: large.half.wait(MOST_S) and act())
        thread.start()
        return thread

    return begin


def children() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if "spawn_main" in " ".join(child.cmdline())]


def test_a_job_that_is_to_end_does_not_wait(
    large: Any, source: ModelSource, at_half: Callable[[Callable[[], object]], threading.Thread]
) -> None:
    cancelled = threading.Event()
    thread = at_half(cancelled.set)
    with pytest.raises(CancelledError):
        fetch(source, cancelled, lambda progress: None)
    assert not large.go.is_set()
    assert not children()
    thread.join()
    large.go.set()

    reported: list[Progress] = []
    fetch(source, threading.Event(), reported.append)
    done = [progress.done for progress in reported]
    assert done == sorted(set(done))
    assert {progress.phase for progress in reported} == {"fetch"}
    assert done[-1] == reported[-1].total >= 5  # MB, less the small files that are here already
    large.seen.clear()
    assert (Path(resolve(source).location) / LARGE).stat().st_size == 5 * 10**6
    assert not large.fetched


def test_a_process_that_dies_is_the_machines_fault(
    large: Any, source: ModelSource, at_half: Callable[[Callable[[], object]], threading.Thread]
) -> None:
    thread = at_half(lambda: [child.kill() for child in children()])

    with pytest.raises(InfrastructureError, match=r"the process that fetched 'some/model' died"):
        fetch(source, threading.Event(), lambda progress: None)

    thread.join()


def test_what_the_hub_refuses_is_told(served: Any) -> None:
    unknown = ModelSource(kind="hub", location=served.ID, revision="v9")
    with pytest.raises(InputError, match=r"^model.revision: 'some/model' has no 'v9'"):
        fetch(unknown, threading.Event(), lambda progress: None)


def test_a_hub_that_fails_is_the_machines_fault(
    served: Any, source: ModelSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    served.failing = 503
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # in this process an interrupt is for pytest
    answers, sender = Pipe(duplex=False)
    with answers, sender:
        fetching._fetch(source, sender)
        answer = answers.recv()
    assert isinstance(answer, InfrastructureError)
    assert "does not answer" in str(answer)


def test_what_is_here_needs_no_process(tmp_path: Path) -> None:
    local = ModelSource(kind="path", location=str(tmp_path / "none"))

    fetch(local, threading.Event(), lambda progress: pytest.fail("nothing is fetched"))
