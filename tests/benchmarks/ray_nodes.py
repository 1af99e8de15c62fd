"""A Ray cluster of several nodes on this machine, kept in a process of its own; a node that dies is replaced."""

import logging
import multiprocessing
from multiprocessing.connection import Connection
from typing import Any

logger = logging.getLogger(__name__)

LOOK_S = 0.2

HEALTH = {
    "health_check_period_ms": 1000,
    "health_check_timeout_ms": 5000,
    "health_check_failure_threshold": 5,
}
"""A node counts as dead after seconds; by default it takes half a minute."""


class Nodes:
    """The cluster: a head without processors, which jobs join, and nodes of one processor each.

    Args:
        count: Nodes besides the head.
    """

    def __init__(self, count: int) -> None:
        ours, theirs = multiprocessing.Pipe()
        self._keeper = multiprocessing.Process(target=_keep, args=(count, theirs), daemon=True)
        self._keeper.start()
        assert self._keeper.pid is not None
        self.pid = self._keeper.pid
        self.address: str = ours.recv()
        self._order = ours

    def close(self) -> None:
        """Ends all nodes."""
        self._order.send("close")
        self._keeper.join()


def _keep(count: int, orders: Connection) -> None:
    from ray.cluster_utils import Cluster  # here, so that the process that was copied has no threads of Ray's

    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 0, "include_dashboard": False, "_system_config": HEALTH},
    )
    nodes: list[Any] = []
    while len(nodes) < count:
        nodes += _added(cluster)
    orders.send(cluster.address)
    while not orders.poll(LOOK_S):
        for node in [node for node in nodes if not _lives(node)]:
            nodes.remove(node)
            cluster.remove_node(node, allow_graceful=False)
        if len(nodes) < count:
            nodes += _added(cluster)
    cluster.shutdown()


def _added(cluster: Any) -> list[Any]:
    """One more node; none where it did not start in time, as on a machine that is busy: it is tried again."""
    try:
        return [cluster.add_node(num_cpus=1)]
    except Exception as error:  # Ray raises nothing narrower
        logger.warning("a node did not start: %s", error)
        return []


def _lives(node: Any) -> bool:
    return all(info.process.poll() is None for info in node.all_processes["raylet"])
