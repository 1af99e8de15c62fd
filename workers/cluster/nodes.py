"""Nodes of the connected cluster, and what they have room for."""

from collections.abc import Collection, Mapping

import ray

from ranksieve.search.errors import InfrastructureError, InputError


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


def a_node_is_alive() -> bool:
    return any(node["Alive"] for node in ray.nodes())
