"""Which genomes go on to the confirm split, and in which order: largest first, where sizes differ.

A search that compares many genomes on the same examples flatters its winner, so finalists are tested again on fresh
ones, from the largest down until one fails (`search.confirmation.fixed_sequence`). So the list holds larger ones than
the search's last word, to fall back on, up to one that hardly differs from the dense model; and some smaller ones that
it had refused or never scored: its own examples are few, and to go on after a success costs the test nothing. Where the
search has scored nothing near a size, what it has found at another one nearby is brought there.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from search.outcome import Outcome
from search.schedules import Accepted
from search.space import Genome, SearchSpace

RISES = (0.02, 0.02, 0.02, 0.02, 0.02, 0.04, 0.06, 0.12, 0.15, 0.15)
"""Kept share by which each larger finalist is above the one below it; one just short of dense is above them all.

No gap is wide: whatever the search has accepted by luck, the test falls back on a size not far above what holds.
"""

FALLS = (0.02, 0.02, 0.03, 0.04, 0.06, 0.09, 0.135)
"""Kept share by which each smaller finalist is below the one above it."""

NEARBY = 0.1
"""Kept share within which the smallest accepted one's allocation is worth more than a seed's."""

SAFEST_SHARE = 0.95
MOST_FINALISTS = 1 + len(RISES) + 1 + len(FALLS)

TOLERANCE = 1e-3  # kept shares lie a hair below their targets


def drop_finalists(
    space: SearchSpace,
    lagrangian: Callable[[float], Genome],
    fitted: Callable[[Genome, float], Genome],
    accepted: Sequence[Accepted],
    front: Sequence[Outcome],
) -> list[Genome]:
    """Finalists of a `MaxDrop` search, largest first.

    Args:
        space: The search space.
        lagrangian: The seed of a size.
        fitted: A genome brought to a size.
        accepted: What was good enough on the search split.
        front: What was scored there and has no smaller one that is better, smallest first.

    Returns:
        Distinct genomes of strictly falling size: the one just short of dense, some in between, the smallest accepted
        one, smaller ones. Where the search has scored nothing near a step, the smallest accepted one is there, brought
        to that size, or the seed if it is far away.
    """
    known = {entry.share: entry.genome for entry in accepted}
    smallest = min(known, default=None)

    def of_size(share: float) -> Genome:
        if smallest is None or abs(share - smallest) > NEARBY + TOLERANCE:
            return lagrangian(share)
        return fitted(known[smallest], share)

    rising = _rising(space, of_size, lagrangian(SAFEST_SHARE), known)
    return [*reversed(rising), *_falling(space, of_size, front, space.kept_share(rising[0]))]


def _rising(
    space: SearchSpace, of_size: Callable[[float], Genome], safest: Genome, known: Mapping[float, Genome]
) -> list[Genome]:
    """The smallest accepted one and larger ones; one accepted near a step stands there."""
    if not known:
        return [safest]
    share, most = min(known), space.kept_share(safest)
    rising = {share: known[share]}
    for rise in RISES:
        wanted = share + rise
        near = [other for other in known if wanted - TOLERANCE < other < wanted + rise]
        genome = known[min(near)] if near else of_size(min(wanted, SAFEST_SHARE))
        share = max(wanted, space.kept_share(genome))
        if max(rising) < space.kept_share(genome) < most:
            rising[space.kept_share(genome)] = genome
    if max(rising) < most:
        rising[most] = safest
    return list(rising.values())


def _falling(
    space: SearchSpace, of_size: Callable[[float], Genome], front: Sequence[Outcome], share: float
) -> list[Genome]:
    """Smaller ones than a share; one of the front near a step stands there."""
    known = {space.kept_share(outcome.genome): outcome.genome for outcome in front}
    falling: list[Genome] = []
    for fall in FALLS:
        wanted = share - fall
        if wanted <= 0:
            break
        near = [other for other in known if wanted - fall / 2 < other < wanted + TOLERANCE]
        genome = known[max(near)] if near else of_size(wanted)
        if space.kept_share(genome) < share:
            falling.append(genome)
        share = min(wanted, space.kept_share(genome))
    return falling


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
