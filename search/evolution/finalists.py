"""Finalists: the genomes to confirm, largest first where sizes differ.

A search that compares many genomes on the same examples flatters its winner. So finalists are tested again on fresh
examples, from the largest down until one fails (`search.statistics.fallback`).

The core are the genomes that the search has accepted: each was scored and looked good enough. Where two of them are
far apart, first guesses stand between them: the test ends at the size of a finalist, and neighbours hold or fail
together.

Larger finalists, up to one that hardly differs from the dense model, were not searched for. They may fail by chance
and block smaller ones that hold. So they have a part of the risk to themselves, and the test has another part to fall
back on. That part is spread over the smallest accepted genomes. Larger genomes are not always better: nothing was
searched for between the seeds, and factors that are best at small sizes lose more at some larger ones. The smallest
of all may have been accepted by luck.

Smaller finalists follow that the search refused or never scored. Its own examples are few, and continuing after a
success costs the test nothing. Where the search has refused all its seeds, these have a part of the risk, too: a
dense model that was lucky on those few examples speaks against all of them at once.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from ranksieve.search.evolution.outcome import Outcome
from ranksieve.search.evolution.schedules import SEED_SHARES, Accepted
from ranksieve.search.space.space import Genome, SearchSpace

WIDEST, WIDEST_PART, FAR_PART = 0.01, 0.1, 0.3
"""Largest distance of an accepted finalist from the next smaller, as a share of the largest genome.

The second value is a part of the finalist's own share; the larger of the two applies. The third replaces the second
for finalists above the small ones (`SMALL`), which are hardly ever the answer. The smallest distance is half as much,
because of more tests more may fail, and each takes time.
"""

MOST_ACCEPTED = 20
"""Largest number of finalists from the smallest accepted one up."""

FALLS = (0.02, 0.02, 0.02, 0.02, 0.03, 0.05, 0.08, 0.12, 0.12, 0.1, 0.1, 0.08)
"""Distances of the smaller finalists, each from the one above it, as shares of the largest genome.

Neighbours hold or fail together, so small steps cost the test little. From the safest finalist they lead down to a
fifth, where the search has accepted nothing.
"""

NEARBY = 0.1
"""Largest distance at which the smallest accepted allocation beats a seed's, as a share of the largest genome."""

TRUSTED_SHARE = SEED_SHARES[0]
"""Share of the largest genome at which a seed counts as accepted if only smaller ones were.

What is right for many examples may fail on few.
"""

SAFEST_SHARE, SAFE_STEP = 0.95, 0.2
"""Largest finalist, and distance of finalists above all that were accepted, as shares of the largest genome."""

SAFE_RISK, SMALL_RISK = 0.2, 0.5
"""Parts of the objective's risk: finalists above the accepted, smallest accepted.

The second part is split evenly among the smallest accepted finalist, the largest of the small ones and the one in the
middle. With more parts hardly any could pass by its own: at a sixth of 5 %, one point may be promised only where at
most 4 of 1,200 records are lost, and none of 512.
"""

LARGEST_RISK = 1 - SAFE_RISK - SMALL_RISK
"""Part of the objective's risk for the largest accepted finalist.

It hardly fails where any finalist holds.
"""

SMALL = 2.0
"""Largest size of the small finalists, relative to the smallest accepted one."""

MISSED_RISK = 0.3
"""Part of the risk for smaller finalists of seed sizes, split evenly in three.

It is taken from `SMALL_RISK` where the search has accepted nothing of these sizes. The smallest accepted finalist has
the rest.
"""

MIDDLE_RISK = 0.2
"""Part of the risk for the middle finalist of a front."""

TOLERANCE = 1e-3  # kept shares lie a hair below their targets

MOST_FINALISTS = int(SAFEST_SHARE / SAFE_STEP) + MOST_ACCEPTED + len(FALLS)


@dataclass(frozen=True, kw_only=True, slots=True)
class Finalist:
    """A genome to confirm, with its own part of the risk.

    Args:
        genome: Levels of the genome.
        risk: Share of the objective's risk to spend on the genome even if the one before it fails.
    """

    genome: Genome
    risk: float = 0.0


def drop_finalists(
    space: SearchSpace,
    seed: Callable[[float], Genome],
    beside: Callable[[Genome, float], Genome],
    accepted: Sequence[Accepted],
    front: Sequence[Outcome],
) -> list[Finalist]:
    """Return the finalists of a `MaxDrop` search, largest first.

    Args:
        space: The search space.
        seed: Function that returns the seed of a size.
        beside: Function that returns a genome of a size near that of a given genome.
        accepted: Genomes that were good enough on the search split.
        front: Outcomes on the search split that no smaller one beats, smallest first.

    Returns:
        Distinct genomes of strictly falling size: seeds from just short of dense down to the accepted genomes, those
        in steps, and smaller ones. Steps without an accepted or scored genome nearby are filled by `beside` from the
        smallest accepted one, or by a seed if that is far away. The risks add up to one.
    """
    scale = space.largest_share
    known = {entry.share: entry.genome for entry in accepted}
    smallest = min(known, default=None)
    trusted = seed(TRUSTED_SHARE * scale)
    if known and max(known) < space.kept_share(trusted):
        known[space.kept_share(trusted)] = trusted

    def genome_at(share: float) -> Genome:
        if smallest is None or abs(share - smallest) > NEARBY * scale + TOLERANCE:
            return seed(share)
        return beside(known[smallest], share)

    chosen = _stepwise(space, genome_at, known)
    safe = _safe(space, seed, space.kept_share(chosen[0])) if chosen else [seed(SAFEST_SHARE * scale)]
    falling = _falling(space, genome_at, front, space.kept_share([*safe, *chosen][-1]))
    return _finalists(
        [*safe, *chosen, *falling],
        risks(len(safe), *([space.kept_share(one) / scale for one in part] for part in (chosen, falling))),
    )


def risks(safe: int, chosen: Sequence[float], falling: Sequence[float]) -> list[float]:
    """Return each finalist's own share of the objective's risk.

    Args:
        safe: Number of finalists above all accepted ones; at least one if none was accepted.
        chosen: Sizes of the accepted finalists as shares of the largest genome, falling.
        falling: Sizes of the finalists below those, likewise.
    """
    last = safe + len(chosen) - 1
    small = [index for index, share in enumerate(chosen, safe) if share <= SMALL * chosen[-1]]
    missed = [index for index, share in enumerate(falling, last + 1) if _is_of_a_seed(share)]
    if missed and not (chosen and chosen[-1] <= TRUSTED_SHARE + TOLERANCE):
        parts = [(last, SMALL_RISK - MISSED_RISK), *_three(missed, MISSED_RISK)]
    else:
        parts = _three(small or [0], SMALL_RISK)
    count = last + 1 + len(falling)
    return _spread(count, (0, SAFE_RISK), (min(safe, last), LARGEST_RISK), *parts)


def _is_of_a_seed(share: float) -> bool:
    return SEED_SHARES[-1] - TOLERANCE <= share <= SEED_SHARES[0] + TOLERANCE


def _three(indices: Sequence[int], risk: float) -> list[tuple[int, float]]:
    """Return even parts for the first, the middle and the last of some finalists."""
    three = dict.fromkeys((indices[0], indices[len(indices) // 2], indices[-1]))
    return [(index, risk / len(three)) for index in three]


def _spread(count: int, *parts: tuple[int, float]) -> list[float]:
    """Return the risks of `count` finalists, summed from parts by index."""
    shares = [0.0] * count
    for index, part in parts:
        shares[index] += part
    return shares


def _safe(space: SearchSpace, seed: Callable[[float], Genome], above: float) -> list[Genome]:
    """Return seeds well above a size, largest first.

    Seeds that are not smaller than the one before are skipped.
    """
    genomes: list[Genome] = []
    below = math.inf
    scale = space.largest_share
    for part in np.arange(SAFEST_SHARE, above / scale + SAFE_STEP / 2, -SAFE_STEP):
        genome = seed(part * scale)
        if above < (share := space.kept_share(genome)) < below:
            genomes.append(genome)
            below = share
    return genomes


def _stepwise(
    space: SearchSpace, genome_at: Callable[[float], Genome], known: Mapping[float, Genome]
) -> list[Genome]:
    """Return the smallest known genome and larger ones in steps, largest first.

    Others fill the gaps between known genomes that are far apart.
    """
    shares: list[float] = []
    scale, smallest = space.largest_share, min(known, default=0.0)
    for share in sorted(known):
        if not shares or share > shares[-1] + _widest(share, smallest, scale) / 2 - TOLERANCE:
            shares.append(share)
    genomes = [known[share] for share in shares[:1]]
    for below, above in pairwise(shares):
        parts = math.ceil((above - below) / _widest(above, smallest, scale) - TOLERANCE)
        for wanted in map(float, np.linspace(below, above, parts + 1)[1:-1]):
            between = genome_at(wanted)
            if space.kept_share(genomes[-1]) < space.kept_share(between) < above:
                genomes.append(between)
        genomes.append(known[above])
    return genomes[:MOST_ACCEPTED][::-1]


def _widest(share: float, smallest: float, scale: float) -> float:
    """Return the largest distance of a finalist of a size to the next smaller one.

    Args:
        share: Kept share of the finalist.
        smallest: Kept share of the smallest accepted one.
        scale: Kept share of the largest genome.
    """
    part = WIDEST_PART if share <= SMALL * smallest else FAR_PART
    return max(WIDEST * scale, part * share)


def _falling(
    space: SearchSpace, genome_at: Callable[[float], Genome], front: Sequence[Outcome], share: float
) -> list[Genome]:
    """Return finalists smaller than a share.

    A genome of the front near a step takes its place.
    """
    known = {space.kept_share(outcome.genome): outcome.genome for outcome in front}
    falling: list[Genome] = []
    for part in FALLS:
        fall = part * space.largest_share
        wanted = share - fall
        if wanted <= 0:
            break
        near = [other for other in known if wanted - fall / 2 < other < wanted + TOLERANCE]
        genome = known[max(near)] if near else genome_at(wanted)
        if space.kept_share(genome) < share:
            falling.append(genome)
        share = min(wanted, space.kept_share(genome))
    return falling


def front_finalists(front: Sequence[Outcome], shares: Sequence[float], limit: int) -> list[Finalist]:
    """Return points spread over a front.

    These are the points nearest to even steps between its ends.

    Args:
        front: Outcomes of the front, smallest first.
        shares: Kept shares of the points, rising.
        limit: Largest number of points, at least one; the largest point comes first.

    Returns:
        Distinct genomes of strictly falling size, both ends of the front among them if `limit` is two or more. The
        middle genome has a part of the risk of its own, the largest has the rest.
    """
    left = dict(zip(shares, front, strict=True))
    chosen: dict[float, Genome] = {}
    for wanted in np.linspace(shares[-1], shares[0], min(limit, len(front))):
        nearest = min(left, key=lambda share: abs(share - wanted))
        chosen[nearest] = left.pop(nearest).genome
    genomes = [chosen[share] for share in sorted(chosen, reverse=True)]
    spread = _spread(len(genomes), (0, 1 - MIDDLE_RISK), (len(genomes) // 2, MIDDLE_RISK))
    return _finalists(genomes, spread)


def _finalists(genomes: Sequence[Genome], shares: Sequence[float]) -> list[Finalist]:
    return [Finalist(genome=genome, risk=share) for genome, share in zip(genomes, shares, strict=True)]
