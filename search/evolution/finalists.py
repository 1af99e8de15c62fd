"""Which genomes go on to the confirm split, and in which order: largest first, where sizes differ.

A search that compares many genomes on the same examples flatters its winner, so finalists are tested again on fresh
ones, from the largest down until one fails (`search.statistics.fallback`). Those that count are what the search has
accepted: each was scored, and looked good enough. Where two of them are far apart, first guesses stand between them:
the test ends at a size that is among its finalists, and neighbours hold or fail together. Larger ones that the search
knows nothing of, up to one that hardly differs from the dense model, may fail by chance, and would then stand in the
way of smaller ones that hold. So they have a part of the risk to themselves, to fall back on. Another part is spread
over the smallest of what was accepted. Larger ones are not always better: nothing was searched for between the seeds,
and factors that are best at small sizes lose more at some larger ones. And the smallest of all may have been accepted
by luck. Smaller ones follow that the search had refused or never scored: its own examples are few, and to go on after a
success costs the test nothing. Where it has refused all its seeds, these have a part of the risk, too: that the dense
model was lucky on those few examples speaks against all of them at once.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from ranksieve.search.evolution.outcome import Outcome
from ranksieve.search.evolution.schedules import SEED_SHARES, Accepted
from ranksieve.search.space.space import Genome, SearchSpace
from ranksieve.search.start.seeds import on_the_way

WIDEST, WIDEST_PART = 0.01, 0.1
"""Kept share by which each accepted finalist is at most above the one below it, or this part of its own, if that is
more; at least, half as much: of more tests more may fail, and each takes time."""

MOST_ACCEPTED = 20
"""Finalists from the smallest accepted one up, those between others included."""

FALLS = (0.01, 0.01, 0.01, 0.01, 0.01, 0.01, 0.02, 0.02, 0.03, 0.05, 0.08, 0.12, 0.1, 0.1, 0.08, 0.08)
"""Kept share by which each smaller finalist is below the one above it: neighbours hold or fail together, so small steps
cost the test little. From the safest one they lead down to a fifth, where the search has accepted none."""

NEARBY = 0.1
"""Kept share within which the smallest accepted one's allocation is worth more than a seed's."""

TRUSTED_SHARE = SEED_SHARES[0]
"""Of a seed that counts as accepted where only smaller ones were: what is right for many may fail on few examples."""

SAFEST_SHARE = 0.95
SAFE_STEP = 0.1
"""Kept share by which one above all that was accepted is below the next larger one."""

SAFE_RISK, SMALL_RISK = 0.2, 0.5
"""Of the objective's risk: for those above all that was accepted; for the smallest of that, in even parts: one for the
smallest of all, one for the largest of them, one for the one between. With more parts hardly any could pass by its own:
at a sixth of 5 %, one point may be promised where no more than 4 of 1,200 records are lost, and none of 512."""

LARGEST_RISK = 1 - SAFE_RISK - SMALL_RISK
"""Of it: for the largest of what was accepted, which is what hardly fails where anything holds."""

SMALL = 2.0
"""Times the smallest accepted one at most."""

MISSED_RISK = 0.3
"""Of what would be for the small ones: for those of the sizes of seeds, in even parts as there, where the search has
accepted nothing as small. The smallest of what it has accepted has the rest."""

MIDDLE_RISK = 0.2
"""Of that of a front: for its middle."""

TOLERANCE = 1e-3  # kept shares lie a hair below their targets

MOST_FINALISTS = int(SAFEST_SHARE / SAFE_STEP) + MOST_ACCEPTED + len(FALLS)


@dataclass(frozen=True, kw_only=True, slots=True)
class Finalist:
    """What is to be confirmed.

    Args:
        genome: Its levels.
        risk: Share of the objective's risk that is spent on it even if the one before it fails.
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
    """Finalists of a `MaxDrop` search, largest first.

    Args:
        space: The search space.
        seed: Of a size.
        beside: Of a size near that of a genome.
        accepted: What was good enough on the search split.
        front: What was scored there and has no smaller one that is better, smallest first.

    Returns:
        Distinct genomes of strictly falling size: seeds from just short of dense down to what was accepted, that itself
        in steps, and smaller ones. Where the search has accepted, or below scored, nothing near one of these, there is
        what stands beside the smallest accepted one, or the seed if it is far away. The risks add up to one.
    """
    known = {entry.share: entry.genome for entry in accepted}
    smallest = min(known, default=None)
    trusted = seed(TRUSTED_SHARE)
    if known and max(known) < space.kept_share(trusted):
        known[space.kept_share(trusted)] = trusted

    def of_size(share: float) -> Genome:
        if smallest is None or abs(share - smallest) > NEARBY + TOLERANCE:
            return seed(share)
        return beside(known[smallest], share)

    chosen = _stepwise(space, of_size, known)
    safe = _safe(space, seed, space.kept_share(chosen[0])) if chosen else [seed(SAFEST_SHARE)]
    falling = _falling(space, of_size, front, space.kept_share([*safe, *chosen][-1]))
    return _finalists(
        [*safe, *chosen, *falling],
        risks(len(safe), [*map(space.kept_share, chosen)], [*map(space.kept_share, falling)]),
    )


def risks(safe: int, chosen: Sequence[float], falling: Sequence[float]) -> list[float]:
    """How the objective's risk is spread over so many finalists: each one's own share of it.

    Args:
        safe: How many are above all that was accepted; at least one, if nothing was.
        chosen: What the accepted ones keep, falling.
        falling: What those below keep, falling.
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
    """Even parts for the first, the middle and the last of some finalists."""
    three = dict.fromkeys((indices[0], indices[len(indices) // 2], indices[-1]))
    return [(index, risk / len(three)) for index in three]


def _spread(count: int, *parts: tuple[int, float]) -> list[float]:
    """Risks of so many finalists, of which these have a part each; one may have several."""
    shares = [0.0] * count
    for index, part in parts:
        shares[index] += part
    return shares


def _safe(space: SearchSpace, seed: Callable[[float], Genome], above: float) -> list[Genome]:
    """Seeds that are well above a size, largest first; where some were started from elsewhere, not all need fall."""
    genomes: list[Genome] = []
    below = math.inf
    for wanted in np.arange(SAFEST_SHARE, above + SAFE_STEP / 2, -SAFE_STEP):
        genome = seed(wanted)
        if above < (share := space.kept_share(genome)) < below:
            genomes.append(genome)
            below = share
    return genomes


def _stepwise(
    space: SearchSpace, of_size: Callable[[float], Genome], known: Mapping[float, Genome]
) -> list[Genome]:
    """Of known genomes the smallest and larger ones, with others between those that are far apart; largest first.

    The first guess may be a much smaller one that is thought to be as good. Should that be wrong, what stands between
    is on the way from one known genome to the other.
    """
    shares: list[float] = []
    for share in sorted(known):
        if not shares or share > shares[-1] + _widest(share) / 2 - TOLERANCE:
            shares.append(share)
    genomes = [known[share] for share in shares[:1]]
    for below, above in pairwise(shares):
        parts = math.ceil((above - below) / _widest(above) - TOLERANCE)
        for wanted in map(float, np.linspace(below, above, parts + 1)[1:-1]):
            between = of_size(wanted)
            if space.kept_share(between) < wanted - (above - below) / parts / 2:
                between = on_the_way(space, known[below], known[above], wanted)
            if space.kept_share(genomes[-1]) < space.kept_share(between) < above:
                genomes.append(between)
        genomes.append(known[above])
    return genomes[:MOST_ACCEPTED][::-1]


def _widest(share: float) -> float:
    """How far an accepted finalist of a size is at most above the next one."""
    return max(WIDEST, WIDEST_PART * share)


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


def front_finalists(front: Sequence[Outcome], shares: Sequence[float], limit: int) -> list[Finalist]:
    """Points spread over a front: those nearest to even steps between its ends.

    Args:
        front: Smallest first.
        shares: What each of its points keeps, rising.
        limit: How many, at least one; the largest comes first.

    Returns:
        Distinct genomes of strictly falling size, both ends of the front among them where `limit` is two or more. The
        one in the middle has a part of the risk to go on with, the largest the rest.
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
