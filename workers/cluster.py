"""The Ray session: connecting, running a phase as a task, starting scoring actors.

On one machine Ray is embedded, with an authentication token of its own for every session (Ray turns token
authentication on by itself; a token in the environment keeps it from writing one to the home folder).
"""

import logging
import os
import secrets
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayError, RayTaskError

from search.errors import CancelledError, InfrastructureError, InputError, RanksieveError
from workers.actor import ScorerPlan, ScoringActor
from workers.dispatcher import Dispatcher
from workers.plan import EncodedTask
from workers.preparation import Progress
from workers.probe import Probe

logger = logging.getLogger(__name__)

POLL_S = 0.2

ANSWER_S = 2.0
"""So long the cluster may take to say that it is there, in seconds."""

SPIN_COUNT = "4000"
"""Rounds that a torch thread waits busily at a barrier before it sleeps, in an embedded cluster. By default there are
300,000 (GNU OpenMP); beside other work, threads then mostly wait for one that is not running."""


class Cluster:
    """A connection to Ray, made at the first use.

    Args:
        address: Address of a running cluster, or None to embed one.
        temp_dir: Where an embedded Ray keeps its logs; None for Ray's default.
    """

    def __init__(self, address: str | None = None, temp_dir: Path | None = None) -> None:
        self._address = address
        self._temp_dir = temp_dir
        self._alive = Probe(_a_node_is_alive, ANSWER_S)
        self._reachable = Probe(self._reach, ANSWER_S)

    def connect(self) -> None:
        """Connects, or starts the embedded cluster; does nothing when connected.

        Raises:
            InfrastructureError: There is no cluster to connect to, or it did not start in time.
        """
        if ray.is_initialized():
            return
        try:
            self._init()
        except Exception as error:  # Ray raises nothing narrower
            raise InfrastructureError(f"Ray did not start: {error}; see its logs and the load") from error

    def _init(self) -> None:
        if self._address is not None:
            ray.init(address=self._address, namespace="ranksieve", logging_level=logging.WARNING)
            return
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)
        options: dict[str, Any] = {} if self._temp_dir is None else {"_temp_dir": str(self._temp_dir)}
        ray.init(
            num_cpus=os.cpu_count(),
            include_dashboard=False,
            namespace="ranksieve",
            logging_level=logging.ERROR,
            log_to_driver=False,
            **options,
        )

    def close(self) -> None:
        """Ends the session; an embedded cluster stops."""
        if ray.is_initialized():
            ray.shutdown()

    def answers(self) -> bool | None:
        """Whether Ray answers within seconds; None where there is nothing to ask yet. Connects and starts nothing."""
        if ray.is_initialized():
            return self._alive()
        if self._address is None or _place(self._address) is None:
            return None
        return self._reachable()

    def _reach(self) -> bool:
        place = _place(self._address or "")
        assert place is not None
        with socket.create_connection(place, timeout=ANSWER_S):
            return True

    def require(self, actors: int, threads: int, gpus: float) -> None:
        """Checks that the cluster can ever hold the job's actors.

        Raises:
            InputError: It cannot.
            InfrastructureError: It has no node left.
        """
        self.connect()
        have = _resources()
        for field, unit, needed in (
            ("resources.threads_per_actor", "CPU", actors * threads),
            ("resources.gpus_per_actor", "GPU", actors * gpus),
        ):
            if needed > have.get(unit, 0):
                raise InputError(
                    field,
                    f"{actors} actors need {needed:g} {unit}, the cluster has {have.get(unit, 0):g}; "
                    "lower resources.actors or this",
                )

    def run(
        self,
        phase: Callable[..., Iterator[Any]],
        *arguments: Any,
        cpus: int,
        gpus: float,
        cancelled: threading.Event,
        on_progress: Callable[[Progress], None],
        environment: Mapping[str, str] | None = None,
        workers: int = 1,
    ) -> Any:
        """Runs a generator in a worker process, passes its progress on, and returns what it yields last.

        Args:
            phase: A generator function of this package; its last item is the result.
            arguments: What it is called with.
            cpus: Processors that a worker may use.
            gpus: GPUs that a worker may use.
            cancelled: Set when the job has to end; checked every 0.2 s.
            on_progress: Told every `Progress` that is further than those before.
            environment: Variables for a process of its own, which is then a fresh one.
            workers: In so many processes at once, which share the work among themselves and end with the same
                result. One that dies leaves its part to the others.

        Raises:
            CancelledError: `cancelled` was set; the workers are killed.
            InfrastructureError: All workers died.
        """
        self.connect()
        task = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=0)(phase)
        runtime_env = {"env_vars": dict(environment)} if environment else {}
        options = {"num_returns": "streaming", "name": phase.__name__, "runtime_env": runtime_env}
        streams = [task.options(**options).remote(*arguments) for _ in range(workers)]
        return _last_item(phase.__name__, streams, cancelled, _Furthest(on_progress))

    def dispatcher(
        self,
        plan: ScorerPlan,
        task: EncodedTask,
        *,
        actors: int,
        gpus: float,
        timeout_s: float,
        cancelled: threading.Event,
        on_replaced: Callable[[int, str], None],
    ) -> Dispatcher:
        """Starts the scoring actors of a job."""
        self.connect()
        task_reference = ray.put(task)

        def start_actor() -> ActorHandle:
            _resources()  # where there are none, an actor would be waited for in vain
            actor = ScoringActor.options(num_cpus=plan.threads, num_gpus=gpus)  # type: ignore[attr-defined]
            return actor.remote(plan, task_reference)

        return Dispatcher(
            start_actor, actors, timeout_s=timeout_s, cancelled=cancelled, on_replaced=on_replaced
        )


def _resources() -> dict[str, float]:
    """What the cluster has, by name.

    Raises:
        InfrastructureError: Nothing: its nodes are dead, and Ray only tells of that where it is asked.
    """
    have: dict[str, float] = ray.cluster_resources()
    if not have.get("CPU"):
        raise InfrastructureError(
            "Ray is gone: the cluster has no node left; see its logs, then resume the job"
        )
    return have


def _a_node_is_alive() -> bool:
    return any(node["Alive"] for node in ray.nodes())


def _place(address: str) -> tuple[str, int] | None:
    """Host and port of a cluster's address; None for `auto` and other names that only Ray can tell."""
    url = urlsplit(address if "://" in address else f"//{address}")
    return None if url.hostname is None or url.port is None else (url.hostname, url.port)


class _Furthest:
    """Passes progress on that is further than what was told of its phase before: workers tell of the same work."""

    def __init__(self, on_progress: Callable[[Progress], None]) -> None:
        self._on_progress = on_progress
        self._done: dict[str, int] = {}

    def __call__(self, item: Any) -> None:
        if isinstance(item, Progress) and item.done > self._done.get(item.phase, -1):
            self._done[item.phase] = item.done
            self._on_progress(item)


def _last_item(
    phase: str, streams: list[Any], cancelled: threading.Event, on_item: Callable[[Any], None]
) -> Any:
    """Follows the workers of a phase until all have ended; the result of the last one that lived."""
    last: dict[Any, Any] = dict.fromkeys(streams)  # of those that have not ended
    result = None
    try:
        while last:
            ready, _ = ray.wait(list(last), timeout=POLL_S, fetch_local=False)
            if cancelled.is_set():
                raise CancelledError("the job was cancelled")
            for stream in ready:
                try:
                    last[stream] = ray.get(next(stream))
                    on_item(last[stream])
                except StopIteration:
                    result = last.pop(stream)
                except RayTaskError as error:
                    del last[stream]
                    if isinstance(error.cause, RanksieveError | OSError):
                        raise error.cause from error
                    raise
                except RayError as error:
                    del last[stream]
                    if not last and result is None:
                        raise InfrastructureError(f"the worker of phase {phase} died: {error}") from error
                    logger.warning("a worker of phase %s died, the others go on: %s", phase, error)
    finally:
        for stream in last:  # those alone: the process of one that has ended may be at other work
            ray.cancel(stream, force=True)
    return result
