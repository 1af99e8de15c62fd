"""Nodes of the connected cluster, and what they have room for."""

import logging
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager

import ray
from ray.exceptions import RayError

from ranksieve.search.errors import InfrastructureError, InputError, NoRoomError
from ranksieve.workers.cluster.autoscaling import Wanted
from ranksieve.workers.cluster.packing import Amounts, amounts, node_amounts, places

logger = logging.getLogger(__name__)

NODES_S = 2.0
"""Interval at which nodes that came or went are looked for, in seconds; Ray has no event for them."""


def living_nodes() -> dict[str, dict[str, float]]:
    """Return the resources of each living node, by Ray's names of both.

    Raises:
        InfrastructureError: No node is alive, which Ray reports only when asked.
    """
    if not ray.cluster_resources():
        raise InfrastructureError(
            "Ray is gone: the cluster has no nodes left; check its logs, then resume the job"
        )
    return {node["NodeID"]: node["Resources"] for node in ray.nodes() if node["Alive"]}


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
    job: str,
    threads: int,
    gpus: float,
    nodes: Mapping[str, Mapping[str, float]],
    wanted: Wanted,
    refusals: Sequence[str] = (),
) -> None:
    """Check that a node of a growing cluster has room for one actor.

    If none has, the autoscaler is asked for one.

    Args:
        job: Name of the job.
        threads: Processors of one actor.
        gpus: GPUs of one actor.
        nodes: Resources of each node, by name.
        wanted: What other jobs wait for.
        refusals: Reasons why other nodes are not used.

    Raises:
        NoRoomError: No node has room.
    """
    if places(amounts(CPU=threads, GPU=gpus), node_amounts(nodes), most=1):
        wanted.withdraw(job)
        return
    needs: dict[str, float] = {"CPU": threads, **({"GPU": gpus} if gpus else {})}
    wanted.ask(job, needs)
    have = ", ".join(sorted({_shape(node) for node in nodes.values()})) or "no CPU"
    others = "".join(f". Besides, {reason}" for reason in refusals)
    raise NoRoomError(
        f"one actor needs a node with {_shape(needs)}, but the cluster has nodes with {have}; the job waits for one, "
        f"and the autoscaler was asked for it. To run on these nodes, submit it with other resources{others}"
    )


def _shape(resources: Mapping[str, float]) -> str:
    """Return processors and GPUs for people."""
    told = [f"{resources[name]:g} {name}" for name in ("CPU", "GPU") if resources.get(name)]
    return " and ".join(told) or "no CPU"


class Following:
    """Look-out for nodes that come and go, while any job wants it.

    Args:
        find_nodes: Finds the nodes, and the resources of each.
        set_nodes: Called with the resources of each node after every change.
    """

    def __init__(
        self,
        find_nodes: Callable[[], Mapping[str, Mapping[str, float]]],
        set_nodes: Callable[[Mapping[str, Amounts]], None],
    ) -> None:
        self._find_nodes, self._set_nodes = find_nodes, set_nodes
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
        last: Mapping[str, Amounts] = {}
        while not ended.wait(NODES_S):
            try:
                nodes = node_amounts(self._find_nodes())
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
