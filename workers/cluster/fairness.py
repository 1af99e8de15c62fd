"""Fair division of a cluster's actors among the jobs that run on it.

Every job keeps one actor. The rest goes to the jobs of the highest priority, in parts of equal size, as far as they
ask for it; then to those of the next priority. A part is measured by the resource of which a job's actors take most,
so that a job of large actors gets fewer of them.

Source: dominant resource fairness, Ghodsi et al., NSDI 2011, algorithm 1.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Amounts = Mapping[str, int]
"""Resource → amount in the smallest unit that Ray knows.

Whole numbers, so that sums are exact.
"""

UNITS = 10_000

GPU = "GPU"
"""Resource of which an actor may take a part, but of a single one only."""


def amounts(**resources: float) -> dict[str, int]:
    """Return the amounts of resources of an actor or a cluster.

    Resources of amount zero are left out.
    """
    counted = {name: round(UNITS * value) for name, value in resources.items()}
    return {name: units for name, units in counted.items() if units}


def room(size: Amounts, nodes: Sequence[Amounts]) -> dict[str, int] | None:
    """Return what an actor takes up of a whole cluster; None if it fits into no node.

    This is its size, and its part of remainders in which no more actors fit. Plain sums over nodes, or over GPUs of
    which an actor takes a part, would promise places that do not exist.

    Args:
        size: Resources of the actor.
        nodes: Resources of each node.
    """
    if not any(fits(node, size) for node in nodes):
        return None
    taken = {}
    for name, units in size.items():
        shared = name == GPU and units < UNITS
        places = sum(
            node.get(name, 0) // UNITS * (UNITS // units) if shared else node.get(name, 0) // units
            for node in nodes
        )
        taken[name] = max(units, sum(node.get(name, 0) for node in nodes) // max(1, places))
    return taken


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """Claim of a job: number of actors wanted, and size of each."""

    wants: int
    size: Amounts
    priority: int = 0


def divide(capacity: Amounts, claims: Sequence[Claim]) -> list[int]:
    """Return how many actors each job may have.

    Args:
        capacity: Resources of the cluster.
        claims: Claims of the jobs. If there is not one actor for each, the first ones get theirs. Where parts are
            equal, the remainder goes to the first ones.

    Returns:
        A number of actors for each claim, at most what it wants.
    """
    free = dict(capacity)
    given = [0] * len(claims)

    def wants_more(index: int) -> bool:
        return given[index] < claims[index].wants and fits(free, claims[index].size)

    def give(index: int) -> None:
        given[index] += 1
        for name, units in claims[index].size.items():
            free[name] -= units

    def turn(index: int) -> tuple[int, float, int]:
        claim = claims[index]
        largest = max(units / capacity[name] for name, units in claim.size.items())
        return -claim.priority, given[index] * largest, index

    for index in range(len(claims)):
        if wants_more(index):
            give(index)
    started = [index for index in range(len(claims)) if given[index]]
    while takers := [index for index in started if wants_more(index)]:
        give(min(takers, key=turn))
    return given


def fits(free: Amounts, size: Amounts) -> bool:
    """Return whether one more actor of this size fits."""
    return all(units <= free.get(name, 0) for name, units in size.items())
