"""Start of Ray, embedded or as a connection to a running cluster.

On one machine Ray is embedded, with an authentication token of its own for every session. Ray turns token
authentication on by itself; a token in the environment keeps it from writing one to the home folder.
"""

import logging
import os
import secrets
import threading
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil
import ray

from ranksieve.search.errors import InfrastructureError
from ranksieve.workers.machine.limits import processors

END_S = 2.0
"""Longest time for killed processes of a failed start to end, in seconds."""

SPIN_COUNT = "4000"
"""Rounds that a torch thread spins at a barrier before it sleeps.

It applies to an embedded cluster. The default of GNU OpenMP is 300,000; beside other work, threads then mostly wait
for one that is not running.
"""

CUBLAS = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
"""Environment that makes products of workers on a GPU reproducible.

cuBLAS reads it when a process first uses a GPU.
"""


def start_ray(address: str | None, temp_dir: Path | None) -> threading.Event:
    """Connect to a running cluster, or start an embedded one.

    An embedded Ray dies with the thread that calls this.

    Args:
        address: Address of a running cluster, or None to embed one.
        temp_dir: Folder of the logs of an embedded Ray; None for Ray's default.

    Returns:
        Event that is set when the raylet of an embedded Ray has died.

    Raises:
        InfrastructureError: There is no cluster, or it did not start in time.
    """
    before = _children()
    # Without a working folder, workers would import from the current folder, and the script's, first.
    with TemporaryDirectory() as empty:
        try:
            if address is None:
                _embed(temp_dir, empty)
            else:
                _join(address, empty)
        except Exception as error:  # Ray raises nothing narrower
            _end(_children() - before)  # processes of a failed start would stay, after every try
            raise InfrastructureError(
                f"Ray did not start: {error}; check its logs and the load of the machine"
            ) from error
    return _watch_raylet(_children() - before)


def _join(address: str, working_dir: str) -> None:
    ray.init(
        address=address,
        namespace="ranksieve",
        logging_level=logging.WARNING,
        runtime_env={"env_vars": CUBLAS, "working_dir": working_dir},
    )


def _embed(temp_dir: Path | None, working_dir: str) -> None:
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)
    for name, value in CUBLAS.items():
        os.environ.setdefault(name, value)
    options: dict[str, Any] = {} if temp_dir is None else {"_temp_dir": str(temp_dir)}
    ray.init(
        address="local",  # without it, Ray joins whatever cluster was started last on this machine
        num_cpus=processors(),
        include_dashboard=False,
        namespace="ranksieve",
        logging_level=logging.ERROR,
        log_to_driver=False,
        runtime_env={"working_dir": working_dir},
        **options,
    )


def _watch_raylet(processes: Collection[psutil.Process]) -> threading.Event:
    """Return an event that is set when the raylet among some processes has died.

    The raylet is reaped then. Its workers end when its process is gone. While it is a zombie they stay, and Ray cannot
    kill them.
    """
    died = threading.Event()

    def wait(raylet: psutil.Process) -> None:
        raylet.wait()
        died.set()

    for process in processes:
        if process.name() == "raylet":
            threading.Thread(target=wait, args=(process,), name="raylet", daemon=True).start()
    return died


def _children() -> set[psutil.Process]:
    return set(psutil.Process().children())


def _end(processes: Collection[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(processes, timeout=END_S)
