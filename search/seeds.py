"""Genomes to start from, made without scoring anything.

Shape letters: M matrices, L levels.
"""

import numpy as np
from numpy.typing import NDArray

from search.operators.repair import fill
from search.prices import Energies, Prices
from search.space import Genome, SearchSpace

BISECTIONS = 60


def predicted_loss(space: SearchSpace, energies: Energies, genome: Genome) -> float:
    """Loss that the energies predict for `genome`: what its ranks cut off, summed over matrices.

    Args:
        space: The search space.
        energies: Per matrix, squared singular values in units of the task loss, descending.
        genome: One level per matrix.
    """
    return Prices(space, energies).loss(genome)


def lagrangian(space: SearchSpace, energies: Energies, share: float) -> Genome:
    """The genome of least predicted loss at a size, on the convex hull of all sizes.

    For an exchange rate λ every matrix on its own minimises lost energy + λ·parameters over its levels. The
    smallest λ that fits the budget is found by bisection, and the rest is spent on the best upgrades.

    Args:
        space: The search space.
        energies: Per matrix, squared singular values in units of the task loss, descending.
        share: Most of the prunable parameters to keep, in [0, 1].

    Returns:
        A genome that keeps at most `share`.

    Raises:
        InputError: A share outside [0, 1], or energies that do not fit the space.

    Source: Everett 1963 (generalised Lagrange multipliers).
    """
    return _cheapest(Prices(space, energies), space.budget(share))


def _cheapest(prices: Prices, budget: int) -> Genome:
    params_ML, lost_ML, rows_M = prices.space.params_ML, prices.lost_ML, prices.rows_M

    def at(rate: float) -> NDArray[np.int64]:
        return np.asarray((lost_ML + rate * params_ML).argmin(axis=1), dtype=np.int64)

    low, high = 0.0, 2.0 * float(prices.up_ratio_ML.max()) + 1e-300
    best_M = at(low)
    if params_ML[rows_M, best_M].sum() > budget:
        low, best_M = high * 1e-18, np.zeros(len(rows_M), dtype=np.int64)
        for _ in range(BISECTIONS):
            middle = float(np.sqrt(low) * np.sqrt(high))
            levels_M = at(middle)
            if params_ML[rows_M, levels_M].sum() > budget:
                low = middle
            else:
                high, best_M = middle, levels_M
    return fill(prices, tuple(best_M.tolist()), budget)


def uniform(space: SearchSpace, share: float) -> Genome:
    """The same share of every matrix, rounded down to the grid.

    Args:
        space: The search space.
        share: Most of the prunable parameters to keep, in [0, 1].

    Returns:
        The genome of the highest common density that keeps at most `share`.

    Raises:
        InputError: A share outside [0, 1].
    """
    budget, params_ML = space.budget(share), space.params_ML
    dense_M1 = params_ML.max(axis=1, keepdims=True)
    # one density per level of one matrix: between two of them nothing changes
    densities = np.unique(params_ML / dense_M1)

    def at(density: float) -> NDArray[np.int64]:
        fits_ML = params_ML <= density * dense_M1 * (1 + 1e-12)
        return np.asarray(np.minimum(fits_ML.sum(axis=1), space.counts_M) - 1, dtype=np.int64)

    low, high = 0, len(densities)
    while high - low > 1:
        middle = (low + high) // 2
        if params_ML[np.arange(len(space)), at(densities[middle])].sum() > budget:
            high = middle
        else:
            low = middle
    return tuple(at(densities[low]).tolist())
