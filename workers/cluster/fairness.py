"""How the actors that a cluster can hold are divided among the jobs that run on it.

Every job keeps one actor. What is left goes to the jobs of the highest priority, in parts of equal size, as far as they
ask for it; then to those of the next priority. A part is measured by the resource of which a job's actors take most,
so that a job of large actors gets fewer of them.

Source: dominant resource fairness, Ghodsi et al., NSDI 2011, algorithm 1.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Amounts = Mapping[str, int]
"""Resource → how much of it, in the smallest unit that Ray knows: whole numbers, so that sums are exact."""

UNITS = 10_000

GPU = "GPU"
"""Of which an actor may take a part, but of one alone."""


def amounts(**resources: float) -> dict[str, int]:
    """What an actor takes, or a cluster has, of each resource; those of which it is nothing are left out."""
    counted = {name: round(UNITS * value) for name, value in resources.items()}
    return {name: units for name, units in counted.items() if units}


def room(size: Amounts, nodes: Sequence[Amounts]) -> dict[str, int]:
    """What an actor takes up of a whole cluster: its size, and its part of what is left over where no more would fit.

    Sums over nodes, or over GPUs of which an actor takes a part, would promise places that are nowhere.

    Args:
        size: Of the actor.
        nodes: What each has; one of them at least has room.
    """
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
    """What a job asks for: so many actors at most, each of which takes up so much."""

    wants: int
    size: Amounts
    priority: int = 0


def divide(capacity: Amounts, claims: Sequence[Claim]) -> list[int]:
    """How many actors each job may have.

    Args:
        capacity: What the cluster has.
        claims: Of the jobs. Where there is not even one actor for each, the first ones get theirs; where parts are
            equal, what is left over goes to the first ones.

    Returns:
        A number for each claim, at most what it wants.
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
    """Whether one more actor of this size finds room."""
    return all(units <= free.get(name, 0) for name, units in size.items())
