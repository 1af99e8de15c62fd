"""Fair division of a cluster's nodes among the jobs that run on it.

Every job keeps one actor. The rest goes to the jobs of the highest priority, in parts of equal size, as far as they
ask for it; then to those of the next priority. A part is measured by the resource of which a job's actors take most,
so that a job of large actors gets fewer of them.

Source: dominant resource fairness, Ghodsi et al., NSDI 2011, algorithm 1.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ranksieve.workers.cluster.packing import Amounts, Room


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """Claim of a job: number of actors wanted, and size of each.

    `held`: how many it has on which node now.
    """

    wants: int
    size: Amounts
    priority: int = 0
    held: Counter[str] = field(default_factory=Counter)


def divide(nodes: Mapping[str, Amounts], claims: Sequence[Claim]) -> list[Counter[str]]:
    """Return how many actors each job may have on which node.

    Actors stay where they are as far as possible.

    Args:
        nodes: Resources of each node, by name.
        claims: Claims of the jobs. If there is not one actor for each, the first ones get theirs. Where parts are
            equal, the remainder goes to the first ones.

    Returns:
        Numbers of actors by node for each claim, in all at most what it wants.
    """
    rooms = [Room(name, node) for name, node in nodes.items()]
    capacity = sum((Counter(node) for node in nodes.values()), Counter[str]())
    given = [Counter[str]() for _ in claims]
    takers = []
    for index, claim in enumerate(claims):
        if claim.wants and _give(rooms, claim, given[index]):
            takers.append(index)

    def turn(index: int) -> tuple[int, float, int]:
        claim = claims[index]
        largest = max(units / capacity[name] for name, units in claim.size.items())
        return -claim.priority, given[index].total() * largest, index

    while takers := [index for index in takers if given[index].total() < claims[index].wants]:
        index = min(takers, key=turn)
        if not _give(rooms, claims[index], given[index]):
            takers.remove(index)  # nothing is given back, so it will not fit later
    return given


def _give(rooms: Sequence[Room], claim: Claim, given: Counter[str]) -> bool:
    """Give a job one more actor where it fits best; return whether it fits."""
    fitting = [room for room in rooms if room.fits(claim.size)]
    if not fitting:
        return False
    staying = [room for room in fitting if given[room.name] < claim.held[room.name]]
    best = min(staying or fitting, key=lambda room: room.preference(claim.size))
    best.take(claim.size)
    given[best.name] += 1
    return True
