"""Seeds: genomes to start from, made without scoring.

Shape letters: G genes, L levels.
"""

from collections.abc import Sequence
from random import Random

import numpy as np
from numpy.typing import NDArray

from ranksieve.search.space.prices import Energies, Prices
from ranksieve.search.space.repair import fill, repair
from ranksieve.search.space.space import Genome, SearchSpace

BISECTIONS = 60


def lagrangian(space: SearchSpace, energies: Energies, share: float) -> Genome:
    """Return the genome of least predicted loss at a size, on the convex hull.

    For an exchange rate λ every gene on its own minimises lost energy + λ·cost over its levels. Bisection finds the
    smallest λ that fits the budget, and the rest is spent on the best upgrades.

    Args:
        space: The search space.
        energies: Squared singular values per matrix, in units of the task loss, descending.
        share: Largest share of the dense cost to keep, in [0, 1].

    Returns:
        A genome of at most `share`, or the smallest one.

    Raises:
        InputError: The share is outside [0, 1], or the energies do not fit the space.

    Source: Everett 1963 (generalised Lagrange multipliers).
    """
    return cheapest(Prices(space, energies), share)


def cheapest(prices: Prices, share: float) -> Genome:
    """Return the Lagrangian genome at a size, from existing prices.

    Prices take long to make where matrices are large, so all sizes share them. See `lagrangian`.
    """
    cost_GL, lost_GL, budget = prices.space.cost_GL, prices.lost_GL, prices.space.budget(share)

    def at(rate: float) -> NDArray[np.int64]:
        return np.asarray((lost_GL + rate * cost_GL).argmin(axis=1), dtype=np.int64)

    low, high = 0.0, 2.0 * float(prices.up_ratio_GL.max()) + 1e-300
    best_G = at(low)
    if prices.space.cost(best_G) > budget:
        low, best_G = high * 1e-18, np.zeros(len(prices.space), dtype=np.int64)
        for _ in range(BISECTIONS):
            middle = float(np.sqrt(low) * np.sqrt(high))
            levels_G = at(middle)
            if prices.space.cost(levels_G) > budget:
                low = middle
            else:
                high, best_G = middle, levels_G
    return fill(prices, tuple(best_G.tolist()), budget)


def uniform(space: SearchSpace, share: float) -> Genome:
    """Return the genome that keeps the same share of every matrix.

    Shares are rounded down to the levels; where all levels of a matrix keep more, it takes the lowest.

    Args:
        space: The search space.
        share: Largest share of the dense cost to keep, in [0, 1].

    Returns:
        The genome of the highest common density that keeps at most `share`.

    Raises:
        InputError: The share is outside [0, 1].
    """
    budget = space.budget(share)
    densities = np.unique(
        space.cost_GL / space.dense_cost_G[:, None]
    )  # nothing changes between two neighbours
    low, high = 0, len(densities)
    while high - low > 1:
        middle = (low + high) // 2
        if space.cost(levels_at(space, densities[middle])) > budget:
            high = middle
        else:
            low = middle
    return tuple(levels_at(space, densities[low]).tolist())


def from_densities(space: SearchSpace, densities_M: Sequence[float]) -> Genome:
    """Return the genome nearest below wanted densities.

    Every gene takes its highest level that keeps no more than wanted, or its lowest level.

    Args:
        space: The search space.
        densities_M: Share of its parameters to keep, per matrix; tied matrices pool theirs.
    """
    wished_M = np.array([shape.dense_params for shape in space.matrices]) * np.asarray(densities_M)
    wished_G = np.array([wished_M[list(gene.members)].sum() for gene in space.genes])
    fitting_G = (space.params_GL <= wished_G[:, None] * (1 + 1e-12)).sum(axis=1)
    return tuple((np.clip(fitting_G, 1, space.counts_G) - 1).tolist())


def fitted(prices: Prices, genome: Genome, share: float) -> Genome:
    """Return a genome brought to a size, trusting its own allocation.

    Args:
        prices: Predicted losses.
        genome: Genome of any size.
        share: Largest share of the dense cost to keep, in [0, 1].

    Returns:
        A genome of at most `share`, or the smallest one.
    """
    return repair(prices, genome, prices.space.budget(share), Random(0), jitter=0.0)


def levels_at(space: SearchSpace, density: float) -> NDArray[np.int64]:
    """Return the highest level of each gene that keeps at most `density` of it.

    Genes without such a level take the lowest one.
    """
    fits_GL = space.cost_GL <= density * space.dense_cost_G[:, None] * (1 + 1e-12)
    fitting_G = np.minimum(fits_GL.sum(axis=1), space.counts_G)
    return np.asarray(np.maximum(fitting_G, 1) - 1, dtype=np.int64)
