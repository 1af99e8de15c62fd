"""A model of a hub of its own, fetched in a process that ends with its job."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from ranksieve.search.errors import CancelledError, InfrastructureError, InputError
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


def test_all_that_a_job_wants_is_here_then(large: Any, source: ModelSource) -> None:
    reported: list[Progress] = []

    fetch(source, threading.Event(), reported.append)

    assert large.fetched[LARGE] == 1
    done = [progress.done for progress in reported]
    assert done == sorted(set(done))
    assert {progress.phase for progress in reported} == {"fetch"}
    assert done[-1] == reported[-1].total == 6  # MB, the last one begun
    large.seen.clear()
    assert (Path(resolve(source).location) / LARGE).stat().st_size == 5 * 10**6
    assert not large.fetched


def test_a_job_that_is_to_end_does_not_wait_for_it(
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
    fetch(source, threading.Event(), lambda progress: None)
    assert (Path(resolve(source).location) / LARGE).stat().st_size == 5 * 10**6


def test_a_process_that_dies_is_the_machines_fault(
    large: Any, source: ModelSource, at_half: Callable[[Callable[[], object]], threading.Thread]
) -> None:
    thread = at_half(lambda: [child.kill() for child in children()])

    with pytest.raises(InfrastructureError, match=r"the process that fetched 'some/model' died"):
        fetch(source, threading.Event(), lambda progress: None)

    thread.join()


@pytest.mark.parametrize(
    ("status", "revision", "error", "message"),
    [
        (0, "v9", InputError, r"^model.revision: 'some/model' has no 'v9'"),
        (503, None, InfrastructureError, r"does not answer"),
    ],
)
def test_what_the_hub_says_is_told(
    large: Any, status: int, revision: str | None, error: type[Exception], message: str
) -> None:
    large.failing = status
    source = ModelSource(kind="hub", location=large.ID, revision=revision)

    with pytest.raises(error, match=message):
        fetch(source, threading.Event(), lambda progress: None)


def test_what_is_here_needs_no_process(tmp_path: Path) -> None:
    local = ModelSource(kind="path", location=str(tmp_path / "none"))

    fetch(local, threading.Event(), lambda progress: pytest.fail("nothing is fetched"))
