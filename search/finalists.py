"""Which genomes go on to the confirm split, and in which order: largest first, where sizes differ.

A search that compares many genomes on the same examples flatters its winner, so finalists are tested again on fresh
ones, from the largest down until one fails (`search.confirmation.fixed_sequence`). So the list holds some larger ones
than the search's last word, to fall back on, and some smaller ones that it had refused: its own examples are few, and
to go on after a success costs the test nothing.
"""

from collections.abc import Callable, Sequence

import numpy as np

from search.objectives import Accepted
from search.outcome import Outcome
from search.space import Genome, SearchSpace

GAP = 0.04
"""Of kept share from one finalist to the next, at least."""

TOLERANCE = 1e-3  # kept shares lie a hair below their targets
SAFEST_SHARE = 0.95


def spread(shares: Sequence[float], limit: int) -> list[int]:
    """Picks shares that are not too close.

    Args:
        shares: Falling or rising.
        limit: How many, at least one.

    Returns:
        Indices of the first one and of those after it that keep the gap, in order.
    """
    chosen: list[int] = []
    for index, share in enumerate(shares):
        if len(chosen) < limit and (not chosen or abs(share - shares[chosen[-1]]) > GAP - TOLERANCE):
            chosen.append(index)
    return chosen


def drop_finalists(
    space: SearchSpace,
    lagrangian: Callable[[float], Genome],
    accepted: Sequence[Accepted],
    front: Sequence[Outcome],
    limit: int,
) -> list[Genome]:
    """Finalists of a `MaxDrop` search, largest first.

    Args:
        space: The search space.
        lagrangian: The seed of a size.
        accepted: What was good enough on the search split.
        front: What was scored there and has no smaller one that is better, smallest first.
        limit: How many of either kind, at least one.

    Returns:
        Distinct genomes of strictly falling size: the smallest accepted one, larger ones before it, smaller ones after
        it. The Lagrangian one just short of dense leads them if nothing was accepted.
    """
    rising = sorted(accepted, key=lambda entry: entry.share)
    safe = [rising[index].genome for index in spread([entry.share for entry in rising], limit)][::-1]
    if not safe:
        safe = [lagrangian(SAFEST_SHARE)]
    smallest = space.kept_share(safe[-1])
    falling = [o.genome for o in reversed(front) if space.kept_share(o.genome) < smallest]
    shares = [smallest, *map(space.kept_share, falling)]
    return safe + [falling[index - 1] for index in spread(shares, limit + 1)[1:]]


def front_finalists(front: Sequence[Outcome], shares: Sequence[float], limit: int) -> list[Genome]:
    """Points spread over a front: those nearest to even steps between its ends.

    Args:
        front: Smallest first.
        shares: What each of its points keeps, rising.
        limit: How many, at least one; the largest comes first.

    Returns:
        Distinct genomes of strictly falling size, both ends of the front among them where `limit` is two or more.
    """
    left = dict(zip(shares, front, strict=True))
    chosen: dict[float, Genome] = {}
    for wanted in np.linspace(shares[-1], shares[0], min(limit, len(front))):
        nearest = min(left, key=lambda share: abs(share - wanted))
        chosen[nearest] = left.pop(nearest).genome
    return [chosen[share] for share in sorted(chosen, reverse=True)]
