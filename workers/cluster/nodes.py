"""Nodes of the connected cluster, and what they have room for."""

import logging
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager

import ray
from ray.exceptions import RayError

from ranksieve.search.errors import InfrastructureError, InputError, NoRoomError
from ranksieve.workers.cluster.autoscaling import Wanted
from ranksieve.workers.cluster.fairness import amounts

logger = logging.getLogger(__name__)

NODES_S = 2.0
"""Interval at which nodes that came or went are looked for, in seconds; Ray has no event for them."""


def require_resources() -> dict[str, float]:
    """Return the resources of the cluster, by name.

    Raises:
        InfrastructureError: There are none, as all nodes are dead; Ray reports this only when asked.
    """
    have: dict[str, float] = ray.cluster_resources()
    if not have.get("CPU"):
        raise InfrastructureError(
            "Ray is gone: the cluster has no nodes left; check its logs, then resume the job"
        )
    return have


def living_nodes() -> list[dict[str, float]]:
    """Return the resources of each living node, by name.

    Raises:
        InfrastructureError: There is no living node.
    """
    require_resources()
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def refuse_too_large(threads: int, gpus: float, nodes: Collection[Mapping[str, float]]) -> None:
    """Refuse an actor larger than any node, which would never start.

    Args:
        threads: Processors of one actor.
        gpus: GPUs of one actor.
        nodes: Resources of each node; nothing is refused while they are unknown.

    Raises:
        InputError: No node has room for one of the job's actors.
    """
    if not nodes:
        return
    for field, unit, needed in (
        ("resources.threads_per_actor", "CPU", threads),
        ("resources.gpus_per_actor", "GPU", gpus),
    ):
        if needed > (most := max(float(node.get(unit, 0)) for node in nodes)):
            advice = (
                "lower this"
                if most
                else "set this to 0 to run on processors, or join a cluster that has some"
            )
            raise InputError(
                field, f"one actor needs {needed:g} {unit}, but the largest node has {most:g}; {advice}"
            )


def require_room(
    job: str, threads: int, gpus: float, nodes: Collection[Mapping[str, float]], wanted: Wanted
) -> None:
    """Check that a node of a growing cluster has room for one actor.

    If none has, the autoscaler is asked for one.

    Args:
        job: Name of the job.
        threads: Processors of one actor.
        gpus: GPUs of one actor.
        nodes: Resources of each node.
        wanted: What other jobs wait for.

    Raises:
        NoRoomError: No node has room.
    """
    needs: dict[str, float] = {"CPU": threads, **({"GPU": gpus} if gpus else {})}
    if any(all(node.get(name, 0) >= amount for name, amount in needs.items()) for node in nodes):
        wanted.withdraw(job)
        return
    wanted.ask(job, needs)
    have = ", ".join(sorted({_shape(node) for node in nodes}))
    raise NoRoomError(
        f"one actor needs a node with {_shape(needs)}, but the cluster has nodes with {have}; the job waits for one, "
        "and the autoscaler was asked for it. To run on these nodes, submit it with other resources"
    )


def node_amounts(nodes: Sequence[Mapping[str, float]]) -> list[dict[str, int]]:
    """Return the processors and GPUs of nodes, as `fairness` counts them."""
    return [amounts(CPU=node.get("CPU", 0), GPU=node.get("GPU", 0)) for node in nodes]


def _shape(resources: Mapping[str, float]) -> str:
    """Return processors and GPUs for people."""
    return " and ".join(f"{resources[name]:g} {name}" for name in ("CPU", "GPU") if resources.get(name))


class Following:
    """Look-out for nodes that come and go, while any job wants it.

    Args:
        set_nodes: Called with the resources of each node after every change.
    """

    def __init__(self, set_nodes: Callable[[list[dict[str, int]]], None]) -> None:
        self._set_nodes = set_nodes
        self._lock = threading.Lock()
        self._jobs = 0
        self._ended = threading.Event()

    @contextmanager
    def nodes(self) -> Iterator[None]:
        """Look out during a `with` block."""
        with self._lock:
            self._jobs += 1
            if self._jobs == 1:
                self._ended = threading.Event()
                threading.Thread(target=self._look, args=(self._ended,), name="nodes", daemon=True).start()
        try:
            yield
        finally:
            with self._lock:
                self._jobs -= 1
                if not self._jobs:
                    self._ended.set()

    def _look(self, ended: threading.Event) -> None:
        last: list[dict[str, int]] = []
        while not ended.wait(NODES_S):
            try:
                nodes = node_amounts(living_nodes())
            except (InfrastructureError, RayError, ConnectionError) as error:
                logger.warning(
                    "the nodes of the cluster are unknown: %s", error
                )  # jobs find out for themselves
                continue
            if nodes != last:
                self._set_nodes(nodes)
                last = nodes


def a_node_is_alive() -> bool:
    return any(node["Alive"] for node in ray.nodes())
