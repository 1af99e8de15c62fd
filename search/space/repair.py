"""Repair: bring a genome under a budget and spend what is left of it.

Shape letters: G genes. Moves go where predicted loss per cost is best, seen from the genome itself. Where a search
has moved a gene against the prediction, repair trusts the search (`Prices.implied_weights`) and does not undo the
move.
"""

from collections.abc import Collection
from random import Random

import numpy as np
from numpy.typing import NDArray

from ranksieve.search.errors import InputError
from ranksieve.search.space.prices import Prices
from ranksieve.search.space.space import Genome


def _shrink_(levels_G: NDArray[np.int64], prices: Prices, left: int, weights_G: NDArray[np.float64]) -> int:
    """Lower genes of positive weight in place until `left` is not negative.

    Return what is left.
    """
    cost_GL = prices.space.cost_GL
    # a gene of weight 0 is left alone
    ratio_G = prices.down_ratio_GL[prices.rows_G, levels_G]
    cost_G = np.where(weights_G > 0, ratio_G * np.maximum(weights_G, 1e-300), np.inf)
    while left < 0:
        i = int(cost_G.argmin())
        if not np.isfinite(cost_G[i]):
            break
        below = prices.down_GL[i, levels_G[i]]
        left += int(cost_GL[i, levels_G[i]] - cost_GL[i, below])
        levels_G[i] = below
        cost_G[i] = prices.down_ratio_GL[i, below] * weights_G[i]
    return left


def _grow_(levels_G: NDArray[np.int64], prices: Prices, left: int, weights_G: NDArray[np.float64]) -> int:
    """Raise genes of positive weight in place while a step fits in `left`.

    Return what is left.
    """
    cost_GL, rows_G, top_G = prices.space.cost_GL, prices.rows_G, prices.space.counts_G - 1
    while left > 0:
        now_G = cost_GL[rows_G, levels_G]
        best_G = prices.up_GL[rows_G, levels_G]
        # a jump to dense may not fit where a single step does
        next_G = np.where(cost_GL[rows_G, best_G] - now_G <= left, best_G, np.minimum(levels_G + 1, top_G))
        spent_G = cost_GL[rows_G, next_G] - now_G
        saved_G = prices.lost_GL[rows_G, levels_G] - prices.lost_GL[rows_G, next_G]
        fits_G = (spent_G > 0) & (spent_G <= left) & (weights_G > 0)
        if not fits_G.any():
            break
        i = int(np.where(fits_G, saved_G * weights_G / np.maximum(spent_G, 1), -1.0).argmax())
        levels_G[i] = next_G[i]
        left -= int(spent_G[i])
    return left


def fill(prices: Prices, genome: Genome, budget: int) -> Genome:
    """Spend the rest of `budget` where it saves most predicted loss per cost.

    Args:
        prices: Predicted losses.
        genome: Genome of cost at most `budget`; not modified.
        budget: Largest allowed cost.

    Returns:
        A genome to which no further step can be added within the budget.
    """
    levels_G = np.array(genome, dtype=np.int64)
    _grow_(levels_G, prices, budget - prices.space.cost(genome), np.ones(len(genome)))
    return tuple(levels_G.tolist())


def repair(
    prices: Prices,
    genome: Genome,
    budget: int,
    rng: Random,
    *,
    fixed: Collection[int] = (),
    jitter: float = 0.5,
) -> Genome:
    """Bring `genome` to a cost of at most `budget` and spend what is left.

    Args:
        prices: Predicted losses.
        genome: Genome to repair; not modified.
        budget: Largest allowed cost.
        rng: Source of the jitter.
        fixed: Genes to leave alone, so that a mutation is not undone; lowered only if the budget requires it.
        jitter: Spread (standard deviation of the logarithm) of a random factor on every gene's weight.

    Returns:
        A genome of cost at most `budget`, to which no step outside `fixed` can be added. Removed sublayers come back
        only if no other gene can grow.

    Raises:
        InputError: The budget is below the cost of the smallest genome.
    """
    smallest = prices.space.smallest_cost
    if budget < smallest:
        raise InputError(
            "budget", f"must be at least {smallest}, the cost of the smallest genome, got {budget}"
        )
    levels_G = np.array(genome, dtype=np.int64)
    weights_G = prices.implied_weights(levels_G)
    weights_G *= [rng.lognormvariate(0.0, jitter) for _ in genome]
    free_G = weights_G.copy()
    free_G[list(fixed)] = 0.0
    left = budget - prices.space.cost(genome)
    left = _shrink_(levels_G, prices, left, free_G)
    left = _shrink_(levels_G, prices, left, weights_G)
    # a single matrix of a removed sublayer would have no effect
    live_G = free_G.copy()
    for genes in map(list, prices.space.sublayers):
        live_G[genes] *= levels_G[genes].any()
    left = _grow_(levels_G, prices, left, live_G)
    _grow_(levels_G, prices, left, free_G)
    return tuple(levels_G.tolist())
