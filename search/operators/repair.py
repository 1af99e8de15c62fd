"""Repair: bring a genome under a parameter budget and spend what is left of it.

Shape letters: M matrices. Moves go where predicted loss per parameter is best, seen from the genome itself:
where a search has moved a matrix against the prediction, repair trusts the search (`Prices.implied_weights`),
so it does not undo what was found.
"""

from collections.abc import Collection
from random import Random

import numpy as np
from numpy.typing import NDArray

from search.errors import InputError
from search.prices import Prices
from search.space import Genome


def _shrink_(levels_M: NDArray[np.int64], prices: Prices, left: int, weights_M: NDArray[np.float64]) -> int:
    """Lower matrices of positive weight in place until `left` parameters is no debt; returns what is left."""
    params_ML = prices.space.params_ML
    # a matrix of no weight is left alone, not given away
    ratio_M = prices.down_ratio_ML[prices.rows_M, levels_M]
    cost_M = np.where(weights_M > 0, ratio_M * np.maximum(weights_M, 1e-300), np.inf)
    while left < 0:
        i = int(cost_M.argmin())
        if not np.isfinite(cost_M[i]):
            break
        below = prices.down_ML[i, levels_M[i]]
        left += int(params_ML[i, levels_M[i]] - params_ML[i, below])
        levels_M[i] = below
        cost_M[i] = prices.down_ratio_ML[i, below] * weights_M[i]
    return left


def _grow_(levels_M: NDArray[np.int64], prices: Prices, left: int, weights_M: NDArray[np.float64]) -> None:
    """Raise matrices of positive weight in place while a step fits in `left` parameters."""
    params_ML, rows_M, top_M = prices.space.params_ML, prices.rows_M, prices.space.counts_M - 1
    while left > 0:
        now_M = params_ML[rows_M, levels_M]
        best_M = prices.up_ML[rows_M, levels_M]
        # a jump to dense may not fit where a single step does
        next_M = np.where(params_ML[rows_M, best_M] - now_M <= left, best_M, np.minimum(levels_M + 1, top_M))
        spent_M = params_ML[rows_M, next_M] - now_M
        saved_M = prices.lost_ML[rows_M, levels_M] - prices.lost_ML[rows_M, next_M]
        fits_M = (spent_M > 0) & (spent_M <= left) & (weights_M > 0)
        if not fits_M.any():
            break
        i = int(np.where(fits_M, saved_M * weights_M / np.maximum(spent_M, 1), -1.0).argmax())
        levels_M[i] = next_M[i]
        left -= int(spent_M[i])


def fill(prices: Prices, genome: Genome, budget: int) -> Genome:
    """Spend what `genome` leaves of `budget` where it saves most predicted loss per parameter.

    Args:
        prices: Predicted losses.
        genome: Left as it is; at most `budget` parameters.
        budget: Most parameters to keep.

    Returns:
        A genome to which no single step can be added within the budget.
    """
    levels_M = np.array(genome, dtype=np.int64)
    _grow_(levels_M, prices, budget - prices.space.params(genome), np.ones(len(genome)))
    return tuple(levels_M.tolist())


def repair(
    prices: Prices,
    genome: Genome,
    budget: int,
    rng: Random,
    *,
    fixed: Collection[int] = (),
    jitter: float = 0.5,
) -> Genome:
    """Bring `genome` to at most `budget` parameters and spend what is left.

    Args:
        prices: Predicted losses.
        genome: Left as it is.
        budget: Most parameters to keep.
        rng: Source of the jitter.
        fixed: Matrices to leave alone, so that a mutation is not undone; given up if the budget demands it.
        jitter: Spread (standard deviation of the logarithm) of a random factor on every matrix's weight.

    Returns:
        A genome of at most `budget` parameters to which no step outside `fixed` can be added.

    Raises:
        InputError: A negative budget.
    """
    if budget < 0:
        raise InputError("budget", f"must not be negative, got {budget}")
    levels_M = np.array(genome, dtype=np.int64)
    weights_M = prices.implied_weights(levels_M)
    weights_M *= [rng.lognormvariate(0.0, jitter) for _ in genome]
    free_M = weights_M.copy()
    free_M[list(fixed)] = 0.0
    left = budget - prices.space.params(genome)
    left = _shrink_(levels_M, prices, left, free_M)
    left = _shrink_(levels_M, prices, left, weights_M)
    _grow_(levels_M, prices, left, free_M)
    return tuple(levels_M.tolist())
