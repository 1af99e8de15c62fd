"""Runs against a real Ray."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

from search.errors import CancelledError, InfrastructureError, InputError
from workers.cluster import Cluster
from workers.preparation import Progress

pytestmark = pytest.mark.usefixtures("cluster")


class Run:
    """Runs phases and keeps what they told."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.cancelled = threading.Event()
        self.progress: list[Progress] = []

    def __call__(
        self, phase: object, *arguments: object, environment: dict[str, str] | None = None
    ) -> object:
        return self._cluster.run(
            phase,  # type: ignore[arg-type]
            *arguments,
            cpus=1,
            gpus=0,
            cancelled=self.cancelled,
            on_progress=self.on_progress,
            environment=environment,
        )

    def on_progress(self, progress: Progress) -> None:
        self.progress.append(progress)


@pytest.fixture
def run(cluster: Cluster) -> Run:
    return Run(cluster)


def test_phase_tells_its_progress_and_returns_its_last_item(run: Run) -> None:
    def phase(count: int) -> Iterator[Progress | str]:
        for done in range(count):
            yield Progress(phase="count", done=done, total=count)
        yield f"counted to {count}"

    assert run(phase, 3) == "counted to 3"
    assert run.progress == [Progress(phase="count", done=done, total=3) for done in range(3)]


def test_waiting_threads_of_a_worker_give_way_to_other_work(run: Run) -> None:
    def phase() -> Iterator[int]:
        yield int(os.environ["GOMP_SPINCOUNT"])

    assert run(phase) < 10_000


def test_phase_with_an_environment_has_a_process_of_its_own(run: Run, tmp_path: Path) -> None:
    def phase() -> Iterator[tuple[int, str | None]]:
        yield os.getpid(), os.environ.get("HF_MODULES_CACHE")

    pid, value = run(phase, environment={"HF_MODULES_CACHE": str(tmp_path)})  # type: ignore[misc]
    assert value == str(tmp_path)
    other_pid, other_value = run(phase)  # type: ignore[misc]
    assert other_value != str(tmp_path)
    assert len({pid, other_pid, os.getpid()}) == 3


def test_error_of_the_user_arrives_as_it_is(run: Run) -> None:
    def phase() -> Iterator[Progress]:
        yield Progress(phase="check", done=0, total=1)
        raise InputError("model.path", "is bad")

    with pytest.raises(InputError) as caught:
        run(phase)
    assert (caught.value.field, caught.value.message) == ("model.path", "is bad")
    assert len(run.progress) == 1


def test_error_of_the_code_keeps_its_kind(run: Run) -> None:
    def phase() -> Iterator[Progress]:
        yield Progress(phase="check", done=0, total=1)
        raise ZeroDivisionError("by zero")

    with pytest.raises(ZeroDivisionError, match="by zero"):
        run(phase)


def test_phase_that_dies_is_the_machines_fault(run: Run) -> None:
    def phase() -> Iterator[Progress]:
        yield Progress(phase="die", done=0, total=1)
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(InfrastructureError, match="the worker of phase phase died"):
        run(phase)


def test_cancelling_ends_a_phase_at_once(run: Run, tmp_path: Path) -> None:
    def phase(pid_file: Path) -> Iterator[Progress]:
        pid_file.write_text(str(os.getpid()))
        yield Progress(phase="hang", done=0, total=1)
        threading.Event().wait()

    cancelled_at: list[float] = []

    def cancel(progress: Progress) -> None:
        cancelled_at.append(time.monotonic())
        run.cancelled.set()

    run.on_progress = cancel  # type: ignore[method-assign]
    with pytest.raises(CancelledError, match="cancelled"):
        run(phase, tmp_path / "pid")
    assert time.monotonic() - cancelled_at[0] < 3


def test_cluster_must_hold_the_actors(cluster: Cluster) -> None:
    cluster.require(actors=1, threads=1, gpus=0)
    with pytest.raises(InputError) as caught:
        cluster.require(actors=1000, threads=4, gpus=0)
    assert caught.value.field == "resources.threads_per_actor"
    assert "1000 actors need 4000 CPU, the cluster has" in caught.value.message
    with pytest.raises(InputError) as caught:
        cluster.require(actors=1, threads=1, gpus=1000)
    assert caught.value.field == "resources.gpus_per_actor"


def test_embedded_cluster_has_a_token_of_its_own(cluster: Cluster) -> None:
    cluster.connect()  # does nothing when connected
    assert ray.is_initialized()
    assert len(os.environ["RAY_AUTH_TOKEN"]) >= 32
