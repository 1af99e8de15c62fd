"""Level mutation: a few genes move up or down by one level, or a few."""

from random import Random

import numpy as np
from numpy.typing import NDArray

from ranksieve.search.space.prices import Prices
from ranksieve.search.space.space import Genome, SearchSpace

MOST_CHANGES = 4
STRIDES = (1, 2, 4)
"""Levels a gene moves at once; all equally likely."""


def draw_changes(rng: Random) -> int:
    """How many genes to change: the smaller of two uniform draws, so mostly one or two."""
    return min(rng.randint(1, MOST_CHANGES), rng.randint(1, MOST_CHANGES))


def level_below(space: SearchSpace, index: int, level: int, rng: Random) -> int:
    """The level that one step down from `level` leads to.

    Just below dense a rank is stored in nearly as many parameters as the matrix and loses a lot, so a step from
    there is a jump to any rank that keeps half of them or more, or to the last one below half.

    Args:
        space: The search space.
        index: Which gene.
        level: Its level, at least 1.
        rng: Source of randomness.
    """
    if not space.genes[index].is_dense(level):
        return level - 1
    cost_L = space.cost_GL[index, : level + 1]
    half = int(np.searchsorted(cost_L, cost_L[level] // 2, side="right")) - 1
    return rng.randint(max(0, half), level - 1)  # all its levels may keep more than half


def mutate(prices: Prices, genome: Genome, rng: Random, *, sensitivity_rate: float = 0.0) -> Genome:
    """Move one or a few genes up or down; the size may change.

    Args:
        prices: Predicted losses.
        genome: Left as it is.
        rng: Source of randomness.
        sensitivity_rate: Chance that genes are chosen by what a step of theirs is predicted to change, and not evenly.

    Returns:
        A genome that differs in at least one level.
    """
    space, levels = prices.space, list(genome)
    count = min(draw_changes(rng), len(levels))
    if sensitivity_rate and rng.random() < sensitivity_rate:
        chosen = _by_sensitivity(prices, genome, rng)[:count]
    else:
        chosen = rng.sample(range(len(levels)), count)
    for i in chosen:
        top, stride = len(space.genes[i].levels) - 1, rng.choice(STRIDES)
        if levels[i] == 0 or (levels[i] < top and rng.random() < 0.5):
            levels[i] = min(top, levels[i] + stride)
        else:
            levels[i] = max(0, level_below(space, i, levels[i], rng) - stride + 1)
    return tuple(levels)


def _by_sensitivity(prices: Prices, genome: Genome, rng: Random) -> list[int]:
    """All genes in random order, one whose steps change twice the predicted loss twice as likely to come first.

    Source: weighted sampling without replacement, Efraimidis and Spirakis 2006.
    """
    change_G = _step_losses(prices, np.array(genome))
    key_G = [rng.expovariate(change) for change in change_G.tolist()]
    return sorted(range(len(genome)), key=key_G.__getitem__)


def _step_losses(prices: Prices, levels_G: NDArray[np.int64]) -> NDArray[np.float64]:
    """What one level more or less changes of each gene's predicted loss, the larger of the two, above 0."""
    rows_G, top_G = prices.rows_G, prices.space.counts_G - 1
    below_G, here_G, above_G = (
        prices.lost_GL[rows_G, at_G]
        for at_G in (np.maximum(levels_G - 1, 0), levels_G, np.minimum(levels_G + 1, top_G))
    )
    return np.maximum(np.maximum(below_G - here_G, here_G - above_G), 1e-100)
