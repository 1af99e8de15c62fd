"""The Ray session: connection, phases as tasks, and scoring actors.

Several jobs may use the session at once, each in a thread of its own and within its share.
"""

import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import ray
import torch
from ray.actor import ActorHandle
from ray.autoscaler.sdk import request_resources
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ranksieve.search.errors import InfrastructureError
from ranksieve.workers.cluster.actor import ScorerPlan, ScoringActor
from ranksieve.workers.cluster.autoscaling import Wanted
from ranksieve.workers.cluster.dispatcher import Dispatcher
from ranksieve.workers.cluster.nodes import (
    Following,
    a_node_is_alive,
    living_nodes,
    refuse_too_large,
    require_room,
)
from ranksieve.workers.cluster.packing import UNITS, Place, amounts, node_amounts
from ranksieve.workers.cluster.phases import Furthest, run_phase, tidied
from ranksieve.workers.cluster.probe import Probe
from ranksieve.workers.cluster.shares import Share, Sharing
from ranksieve.workers.cluster.start import start_ray
from ranksieve.workers.cluster.vetting import Vetting
from ranksieve.workers.machine.limited import run_limited
from ranksieve.workers.machine.limits import processors
from ranksieve.workers.types.plan import EncodedTask
from ranksieve.workers.types.progress import Progress

ANSWER_S = 2.0
"""Longest time for a cluster to answer, in seconds."""

GONE_S = 15.0
"""Time without an answer after which a cluster is given up, in seconds."""


class Cluster:
    """A connection to Ray, made at the first use.

    Args:
        address: Address of a running cluster, or None to embed one.
        temp_dir: Folder of the logs of an embedded Ray; None for Ray's default.
        run_limited: Runs what reads files of users, not on the cluster but by this process.
        shared_folder: Folder that nodes of a running cluster must have, or they get no work.
    """

    def __init__(
        self,
        address: str | None = None,
        temp_dir: Path | None = None,
        run_limited: Callable[..., Any] = run_limited,
        shared_folder: Path | None = None,
    ) -> None:
        self.run_limited = run_limited
        self._address = address
        self._temp_dir = temp_dir
        self._alive = Probe(a_node_is_alive, ANSWER_S)
        self._surely_alive = Probe(a_node_is_alive, GONE_S)
        self._reachable = Probe(self._reach, ANSWER_S)
        self._raylet_died = threading.Event()
        self._sharing = Sharing()
        self._wanted = Wanted(lambda bundles: request_resources(bundles=[dict(one) for one in bundles]))
        self._vetting = Vetting(shared_folder)
        self._following = Following(self._usable_nodes, self._sharing.set_nodes)
        self._connecting = threading.Lock()
        # An embedded Ray dies with the thread that started it, so no job may own that thread.
        self._keeper = ThreadPoolExecutor(1, thread_name_prefix="ray")

    def connect(self) -> None:
        """Connect, or start the embedded cluster; do nothing when connected.

        Raises:
            InfrastructureError: There is no cluster, or it did not start in time.
        """
        with self._connecting:
            if ray.is_initialized():
                return
            self._raylet_died = self._keeper.submit(start_ray, self._address, self._temp_dir).result()

    def close(self) -> None:
        """End the session, which no job may be using; an embedded cluster stops."""
        with self._connecting:
            if ray.is_initialized():
                self._keeper.submit(ray.shutdown).result()

    def answers(self) -> bool | None:
        """Return whether Ray answers within seconds; None if there is no cluster yet.

        Connects and starts nothing.
        """
        if ray.is_initialized():
            return self._alive()
        if self._address is None or _place(self._address) is None:
            return None
        return self._reachable()

    def lacks(self) -> str | None:
        """Return what a connected cluster lacks to run any job; None if nothing is known."""
        if self.may_grow and ray.is_initialized() and self._alive():
            with suppress(InfrastructureError):  # its nodes died a moment ago
                return self._vetting.lack(living_nodes())
        return None

    def gone(self) -> bool:
        """Return whether there is no session that jobs could continue with."""
        return not ray.is_initialized() or self._raylet_died.is_set() or not self._surely_alive()

    def _usable_nodes(self) -> Mapping[str, Mapping[str, float]]:
        return self._vetting.admitted(living_nodes())

    def _reach(self) -> bool:
        place = _place(self._address or "")
        assert place is not None
        with socket.create_connection(place, timeout=ANSWER_S):
            return True

    @property
    def may_grow(self) -> bool:
        """Whether nodes may come and go; not if Ray runs in this process."""
        return self._address is not None

    @contextmanager
    def share(
        self,
        job: str,
        *,
        actors: int,
        threads: int,
        gpus: float,
        priority: int,
        cancelled: threading.Event,
        on_held: Callable[[int], None],
        on_notice: Callable[[str], None],
    ) -> Iterator[Share]:
        """Hold a job's share of the cluster during a `with` block.

        The block begins when there is room for one actor. The share follows nodes that come and go.

        Args:
            job: Name of the job in the log.
            actors: Largest number of actors.
            threads: Processors of one actor.
            gpus: GPUs of one actor.
            priority: Priority of the job.
            cancelled: Set when the job must end.
            on_held: Called with the number of the job's actors on every change.
            on_notice: Called with the reason when the job has waited for an actor for long.

        Raises:
            InputError: This machine has no room for one of the job's actors.
            NoRoomError: No node of the cluster has room for one now. Its autoscaler was asked for a node.
            InfrastructureError: There is no cluster, or it has no nodes left.
        """
        self.connect()
        resources: Mapping[str, Mapping[str, float]] = living_nodes()
        following: AbstractContextManager[None] = nullcontext()
        if self.may_grow:
            resources = self._vetting.admitted(resources)
            require_room(job, threads, gpus, resources, self._wanted, self._vetting.refusals)
            for refusal in self._vetting.refusals:
                on_notice(refusal)
            following = self._following.nodes()
        else:
            refuse_too_large(threads, gpus, resources.values())
        entered = self._sharing.enter(
            job,
            node_amounts(resources),
            amounts(CPU=threads, GPU=gpus),
            limit=actors,
            priority=priority,
            cancelled=cancelled,
            on_held=on_held,
            on_notice=on_notice,
        )
        with following, entered as share:
            yield share

    def nodes(self) -> list[dict[str, float]]:
        """Return the resources of each node, by Ray's names.

        Empty if the cluster does not answer. Starts nothing, but connects to a cluster that answers.
        """
        if self._address is None and not ray.is_initialized():
            return [{"CPU": processors(), "GPU": torch.cuda.device_count()}]
        if self.answers() is not False:
            with suppress(InfrastructureError):  # reported when the job runs
                self.connect()
                return list(living_nodes().values())
        return []

    def run(
        self,
        phase: Callable[..., Iterator[Any]],
        *arguments: Any,
        share: Share,
        cancelled: threading.Event,
        on_progress: Callable[[Progress], None],
        environment: Mapping[str, str] | None = None,
        workers: int = 1,
    ) -> Any:
        """Run a generator in worker processes and return its last item.

        Progress is passed on.

        Args:
            phase: A generator function of this package; its last item is the result.
            arguments: Arguments of the phase.
            share: The job's share of the cluster; a worker takes as much as an actor.
            cancelled: Set when the job must end; checked every 0.2 s.
            on_progress: Called with every `Progress` that is further than those before.
            environment: Environment variables of a fresh process.
            workers: Largest number of processes, as far as the share allows. They divide the work among themselves
                and end with the same result. More join when the share grows; the youngest is killed when it shrinks.
                One that dies leaves its part to the others.

        Raises:
            CancelledError: `cancelled` was set; the workers are killed.
            InfrastructureError: All workers died.
        """
        task = ray.remote(max_retries=0)(tidied(phase))
        runtime_env = {"env_vars": dict(environment)} if environment else {}
        options = {"num_returns": "streaming", "name": phase.__name__, "runtime_env": runtime_env}

        def start(place: Place) -> Any:
            self._require_raylet()
            return task.options(**options, **_options(share, place)).remote(*arguments)

        share.use(workers)
        try:
            return run_phase(phase.__name__, start, share, cancelled, Furthest(on_progress))
        finally:
            share.rest()

    def dispatcher(
        self,
        plan: ScorerPlan,
        task: EncodedTask,
        *,
        share: Share,
        timeout_s: float,
        cancelled: threading.Event,
        on_replaced: Callable[[int, str], None],
    ) -> Dispatcher:
        """Start the scoring actors of a job, as many as its share allows."""
        self._require_raylet()
        task_reference = ray.put(task)

        def start_actor(place: Place) -> ActorHandle:
            self._require_raylet()
            actor = ScoringActor.options(**_options(share, place))  # type: ignore[attr-defined]
            return actor.remote(plan, task_reference)

        return Dispatcher(
            start_actor, share, timeout_s=timeout_s, cancelled=cancelled, on_replaced=on_replaced
        )

    def _require_raylet(self) -> None:
        """Refuse to go on without a raylet.

        Ray ends a process that then uses its object store.

        Raises:
            InfrastructureError: The raylet of the embedded cluster has died.
        """
        if self._raylet_died.is_set():
            raise InfrastructureError("Ray is gone: its raylet has died; check its logs, then resume the job")


def _options(share: Share, place: Place) -> dict[str, Any]:
    """Return the resources and the node of an actor or a worker, as options of Ray."""
    return {
        "num_cpus": share.size["CPU"] / UNITS,
        "num_gpus": share.size.get("GPU", 0) / UNITS,
        "scheduling_strategy": NodeAffinitySchedulingStrategy(place.node, soft=False),
    }


def _place(address: str) -> tuple[str, int] | None:
    """Return host and port of a cluster's address.

    None for `auto` and other names that only Ray can resolve.
    """
    url = urlsplit(address if "://" in address else f"//{address}")
    return None if url.hostname is None or url.port is None else (url.hostname, url.port)
