"""What can be told of the start of Ray without starting one."""

import os
import subprocess
import sys
import tempfile

import pytest
import ray

from ranksieve.search.errors import InfrastructureError
from ranksieve.workers.cluster import session
from ranksieve.workers.cluster.session import Cluster


def test_a_ray_that_does_not_start_is_a_fault_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    def time_out(**options: object) -> None:
        raise Exception("The current node timed out during startup.")  # as Ray does

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", time_out)
    with pytest.raises(InfrastructureError, match="Ray did not start: The current node timed out"):
        Cluster().connect()


def test_an_embedded_ray_is_one_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **options: asked.append(options["address"]))
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")  # as it is in a shell beside another cluster
    Cluster().connect()
    Cluster("127.0.0.1:2").connect()
    assert asked == ["local", "127.0.0.1:2"]


def test_an_embedded_ray_has_the_processors_that_this_process_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray alone sees no affinity and no quota of a service, and makes nothing of less than one processor."""
    told: list[dict[str, object]] = []
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **options: told.append(options))
    monkeypatch.setattr(session, "processors", lambda: 5)
    Cluster().connect()
    assert [options.get("num_cpus") for options in told] == [5]


def test_workers_of_every_cluster_are_told_to_compute_alike_each_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[object] = []
    name = "CUBLAS_WORKSPACE_CONFIG"
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(
        ray, "init", lambda **options: told.append((os.environ.get(name), options.get("runtime_env")))
    )
    monkeypatch.setenv(name, "")
    monkeypatch.delenv(name)
    Cluster("127.0.0.1:2").connect()
    Cluster().connect()
    assert told == [(None, {"env_vars": {name: ":4096:8"}}), (":4096:8", None)]


def test_a_ray_that_does_not_start_leaves_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    started = []
    sleeper = [sys.executable, "-c", "input()"]
    other = subprocess.Popen(sleeper, stdin=subprocess.PIPE)

    def time_out(**options: object) -> None:
        started.append(subprocess.Popen(sleeper, stdin=subprocess.PIPE))
        raise Exception("The current node timed out during startup.")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", time_out)
    with pytest.raises(InfrastructureError):
        Cluster().connect()
    assert [process.poll() is None for process in (*started, other)] == [False, True]
    for process in (*started, other):
        process.communicate(b"\n")


def test_a_server_that_ray_was_started_in_may_take_its_time_to_end() -> None:
    """Ray's own handler of SIGTERM sets an alarm that aborts the process after three seconds."""
    program = """
import os, signal, sys, threading, time
from ranksieve.workers.cluster.session import Cluster

asked = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: asked.set())
cluster = Cluster(temp_dir=sys.argv[1])
cluster.connect()
os.kill(os.getpid(), signal.SIGTERM)
asked.wait()
threading.Event().wait(4)
cluster.close()
print("ended")
"""
    with tempfile.TemporaryDirectory(
        prefix="ray-", ignore_cleanup_errors=True
    ) as short:  # as sockets want it
        command = [sys.executable, "-c", program, short]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, done.stdout) == (0, "ended\n"), done.stderr
