"""Finalists: the genomes to confirm, largest first where sizes differ.

A search that compares many genomes on the same examples flatters its winner. So finalists are tested again on fresh
examples, from the largest down until one fails (`search.statistics.fallback`).

Their sizes are those of a ladder from just short of the largest genome down. At each rung stands what the search has
accepted there, else what it has scored, else a seed. Rungs are far apart: each takes time, and where neighbours are
alike, a second test of nearly the same model is one more chance to fail.

The risk is spread over a few rungs. No size is safe: a trained model of any size answers some records otherwise than
the model that it is compared with. So a test that started at one rung would often end there, by that rung's bad luck
alone.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from ranksieve.search.evolution.outcome import Outcome
from ranksieve.search.evolution.schedules import Accepted
from ranksieve.search.space.space import Genome, SearchSpace

LARGEST, RUNG, RUNGS = 0.95, 0.85, 22
"""Size of the largest rung as a share of the largest genome, of each rung by the one above, and their number."""

STARTS = 3
"""Rungs that have a part of the risk to themselves, evenly spread from the first to the smallest accepted one."""

LAST_START = 3
"""Last of these rungs where the search has accepted nothing: at six tenths of the largest genome."""

MIDDLE_RISK = 0.2
"""Part of the risk for the middle finalist of a front."""

TOLERANCE = 1e-3  # kept shares lie a hair below their targets


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
    accepted: Sequence[Accepted],
    front: Sequence[Outcome],
) -> list[Finalist]:
    """Return the finalists of a `MaxDrop` search, largest first.

    Args:
        space: The search space.
        seed: Function that returns the seed of a size.
        accepted: Genomes that were good enough on the search split.
        front: Outcomes on the search split that no smaller one beats, smallest first.

    Returns:
        Distinct genomes of strictly falling size, the smallest accepted one among them. Their risks add up to one.
    """
    good = {entry.share: entry.genome for entry in accepted}
    scored = {space.kept_share(outcome.genome): outcome.genome for outcome in front}
    sizes = rungs(space)
    seeds = {space.kept_share(genome): genome for genome in map(seed, sizes)}
    chosen: dict[float, Genome] = {}
    for rung, below in pairwise([*sizes, -math.inf]):
        above = math.inf if rung == sizes[0] else rung  # accepted ones, and seeds where all are larger
        for genomes, choose, most in ((good, min, above), (scored, max, rung), (seeds, max, above)):
            there = [share for share in genomes if below < share - TOLERANCE <= most]
            if there:
                chosen[choose(there)] = genomes[choose(there)]
                break
    shares = list(chosen)
    last = shares.index(min(good)) if min(good, default=None) in chosen else min(LAST_START, len(shares) - 1)
    parts = risks(len(shares), last)
    return [Finalist(genome=chosen[share], risk=risk) for share, risk in zip(shares, parts, strict=True)]


def rungs(space: SearchSpace) -> list[float]:
    """Return the sizes of finalists, falling, as shares of the dense cost."""
    return [LARGEST * space.largest_share * RUNG**rung for rung in range(RUNGS)]


def risks(count: int, last: int) -> list[float]:
    """Return each finalist's own part of the objective's risk.

    Args:
        count: Number of finalists, largest first.
        last: Index of the smallest one that the test may start at.
    """
    starts = {round(last * part / (STARTS - 1)) for part in range(STARTS)}
    return [1 / len(starts) if index in starts else 0.0 for index in range(count)]


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
    middle = len(genomes) // 2
    parts = [
        (index == 0) * (1 - MIDDLE_RISK) + (index == middle) * MIDDLE_RISK for index in range(len(genomes))
    ]
    return [Finalist(genome=genome, risk=risk) for genome, risk in zip(genomes, parts, strict=True)]
