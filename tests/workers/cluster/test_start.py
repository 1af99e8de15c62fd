"""What can be calls of the start of Ray without starting one."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ray
import torch

from ranksieve.search.errors import InfrastructureError, InputError
from ranksieve.workers.cluster import session, start
from ranksieve.workers.cluster.nodes import refuse_too_large
from ranksieve.workers.cluster.session import Cluster

CUBLAS = "CUBLAS_WORKSPACE_CONFIG"


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What Ray is started with: its options, the environment and the files of its working folder."""
    calls: list[dict[str, Any]] = []

    def init(**options: Any) -> None:
        files = os.listdir(options["runtime_env"]["working_dir"])
        calls.append(options | {"cublas": os.environ.get(CUBLAS), "files": files})

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setenv(CUBLAS, "")
    monkeypatch.delenv(CUBLAS)
    return calls


def test_an_embedded_ray_is_one_of_its_own(
    calls: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray alone sees no affinity and no quota of a service, and makes nothing of less than one processor."""
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")  # as it is in a shell beside another cluster
    monkeypatch.setattr(start, "processors", lambda: 5)
    Cluster().connect()
    assert [(options["address"], options.get("num_cpus")) for options in calls] == [("local", 5)]


def test_every_cluster_computes_alike_in_an_empty_folder(calls: list[dict[str, Any]]) -> None:
    Cluster("127.0.0.1:2").connect()
    Cluster().connect()
    assert [options["address"] for options in calls] == ["127.0.0.1:2", "local"]
    assert [options["files"] for options in calls] == [[], []]
    environments = [(options["cublas"], options["runtime_env"].get("env_vars")) for options in calls]
    assert environments == [(None, {CUBLAS: ":4096:8"}), (":4096:8", None)]


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch) -> Callable[..., str | None]:
    """The field that a cluster refuses before it was started; one at an address has two nodes with a GPU."""
    connected: list[object] = []
    monkeypatch.setattr(ray, "is_initialized", lambda: bool(connected))
    monkeypatch.setattr(ray, "init", lambda **options: connected.append(options["address"]))
    nodes = [{"NodeID": "a", "Alive": True, "Resources": {"CPU": 4.0, "GPU": 1.0}}] * 2
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 8.0, "GPU": 2.0})
    monkeypatch.setattr(session, "processors", lambda: 2)

    def refused(cluster: Cluster, threads: int, gpus: float) -> str | None:
        try:
            refuse_too_large(threads, gpus, cluster.nodes())
        except InputError as error:
            return error.field
        finally:
            assert "local" not in connected
        return None

    return refused


@pytest.mark.parametrize(
    ("there", "threads", "gpus", "field"),
    [
        (0, 2, 0, None),
        (0, 3, 0, "resources.threads_per_actor"),
        (0, 1, 0.5, "resources.gpus_per_actor"),
        (2, 1, 2, None),
        (2, 1, 3, "resources.gpus_per_actor"),
    ],
)
def test_what_this_machine_has_not_is_refused_before_ray_starts(
    refused: Callable[..., str | None],
    monkeypatch: pytest.MonkeyPatch,
    there: int,
    threads: int,
    gpus: float,
    field: str | None,
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: there)
    assert refused(Cluster(), threads, gpus) == field


@pytest.mark.parametrize(
    ("answers", "gpus", "field"),
    [
        (True, 1, None),
        (True, 2, "resources.gpus_per_actor"),
        (None, 2, "resources.gpus_per_actor"),
        (False, 2, None),
    ],
)
def test_a_cluster_that_answers_is_asked_what_it_has(
    refused: Callable[..., str | None],
    monkeypatch: pytest.MonkeyPatch,
    answers: bool | None,
    gpus: float,
    field: str | None,
) -> None:
    monkeypatch.setattr(Cluster, "answers", lambda self: answers)
    assert refused(Cluster("127.0.0.1:2"), 4, gpus) == field


TRAPS = ("ranksieve", "search", "torch", "numpy", "workers", "service", "api", "typing_extensions")
"""Names of modules that are imported by this program, and that a user may call files by."""


@pytest.fixture
def trapped(tmp_path: Path) -> Path:
    """A folder whose modules leave a file when they are imported."""
    folder = tmp_path / "trapped"
    for name in TRAPS:
        file = folder / name / "__init__.py" if name == "workers" else folder / f"{name}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"open({str(tmp_path / name)!r} + '.imported', 'w').close()\n")
    return folder


def run_in(folder: Path, *command: str) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def imported(folder: Path) -> list[str]:
    return sorted(file.stem for file in folder.parent.glob("*.imported"))


def test_a_server_imports_nothing_from_here_outlives_its_ray_and_may_take_its_time_to_end(
    trapped: Path,
) -> None:
    """On a Ray of its own, whose handler of SIGTERM sets an alarm that aborts the process after three seconds."""
    program = """
import os, signal, sys, threading
import psutil, torch
from ranksieve.workers.cluster.session import Cluster
from ranksieve.workers.types.progress import Progress

def phase():
    import numpy, torch
    import ranksieve.search.errors
    yield Progress(phase="a", done=1, total=1)
    yield os.getpid(), os.getcwd(), sys.path, os.environ.get("A"), os.environ["CUBLAS_WORKSPACE_CONFIG"]

asked, cancelled = threading.Event(), threading.Event()
signal.signal(signal.SIGTERM, lambda *_: asked.set())
cluster, processes = Cluster(temp_dir=sys.argv[1]), {os.getpid()}
with cluster.share(
    "a", actors=1, threads=1, gpus=0, priority=0, cancelled=cancelled, on_held=id, on_notice=id
) as share:
    for environment in (None, {"A": "b"}):
        process, folder, path, value, cublas = cluster.run(
            phase, share=share, cancelled=cancelled, on_progress=lambda progress: None, environment=environment
        )
        processes.add(process)
        assert (value, cublas) == ((environment or {}).get("A"), ":4096:8"), (value, cublas)
        assert folder != os.getcwd(), folder
        assert os.getcwd() not in path, path
assert len(processes) == 3, processes
[raylet] = [one for one in psutil.Process().children() if one.name() == "raylet"]
workers = [one for one in raylet.children() if one.cmdline()[0].startswith("ray::IDLE")]
raylet.kill()
_, alive = psutil.wait_procs(workers, timeout=20)
assert workers and not alive, workers
os.kill(os.getpid(), signal.SIGTERM)
asked.wait()
threading.Event().wait(4)
cluster.close()
print("ended")
"""
    # Sockets want a short name.
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as short:
        assert run_in(trapped, sys.executable, "-P", "-c", program, short).endswith("ended\n")
    assert imported(trapped) == []


def test_a_ray_that_does_not_start_leaves_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    started = []
    sleeper = [sys.executable, "-c", "input()"]
    other = subprocess.Popen(sleeper, stdin=subprocess.PIPE)

    def time_out(**options: object) -> None:
        started.append(subprocess.Popen(sleeper, stdin=subprocess.PIPE))
        raise Exception("The current node timed out during startup.")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", time_out)
    with pytest.raises(InfrastructureError, match="Ray did not start: The current node timed out"):
        Cluster().connect()
    assert [process.poll() is None for process in (*started, other)] == [False, True]
    for process in (*started, other):
        process.communicate(b"\n")
