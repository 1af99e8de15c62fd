"""Seeds: genomes to start from, made without scoring.

Shape letters: G genes, L levels.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from random import Random

import numpy as np
from numpy.typing import NDArray

from ranksieve.search.space.prices import Energies, Prices
from ranksieve.search.space.repair import fill, repair
from ranksieve.search.space.space import Genome, SearchSpace

Family = Callable[[float], Genome]
"""Genomes of every size, by the largest share of the dense cost they may take."""

Starts = Mapping[float, Genome]
"""Genomes to start from, by the largest share of the dense cost they may take.

If empty, the search starts from Lagrangian genomes.
"""

BISECTIONS = 60
WAY_STEPS = 100
GOLDEN = (math.sqrt(5) - 1) / 2

HARDLY = 0.005
"""Share of the dense cost below which a smaller genome is not enlarged.

Enlarging by predicted energies would not help.
"""

ABOVE = 0.05
"""Share of the dense cost up to which the largest start stays as it is.

The share applies to genomes given by the user, too. A genome of 0.27 that lost 0.0337 nats lost 0.0466 when it was
enlarged to 0.29.
"""


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


def on_the_way(space: SearchSpace, smaller: Genome, larger: Genome, share: float) -> Genome:
    """Return a genome on the way from a smaller one to a larger one.

    Every level goes the same part of its own way, up to rounding. Levels often differ by one only. So each gene
    rounds at a point of its own, evenly spread over the genes (multiples of the golden ratio), and a part of the way
    is that part of all such steps.

    Args:
        space: The search space.
        smaller: Genome of at most `share`.
        larger: Genome of more than `share`.
        share: Largest share of the parameters to keep.

    Returns:
        The largest genome of at most `share` among the steps of the way.
    """
    from_G, to_G = np.array(smaller), np.array(larger)
    early_G = np.arange(len(smaller)) * GOLDEN % 1
    parts = np.linspace(0, 1, WAY_STEPS + 1)
    steps = [from_G + np.floor(part * (to_G - from_G) + early_G) for part in parts]
    genomes = [tuple(int(level) for level in step_G) for step_G in steps]
    fitting = [genome for genome in genomes if space.kept_share(genome) <= share]
    return max(fitting, key=space.kept_share, default=smaller)


def family(prices: Prices, starts: Starts) -> Family:
    """Return the first guesses at all sizes.

    Args:
        prices: Predicted losses.
        starts: Better guesses than the energies give, if any.

    Returns:
        A function of the size. It returns a start of that size or of a hardly smaller one unchanged, and so the
        largest start for sizes not far above it. For other sizes it brings the nearest start to the size. Without
        starts it returns the Lagrangian genome.
    """
    if not starts:
        return partial(cheapest, prices)

    def brought(share: float) -> Genome:
        below = max((size for size in starts if size <= share), default=-math.inf)
        if share - below < (ABOVE if below == max(starts) else HARDLY):
            return starts[below]
        return fitted(prices, starts[min(starts, key=lambda size: abs(size - share))], share)

    return brought


def levels_at(space: SearchSpace, density: float) -> NDArray[np.int64]:
    """Return the highest level of each gene that keeps at most `density` of it.

    Genes without such a level take the lowest one.
    """
    fits_GL = space.cost_GL <= density * space.dense_cost_G[:, None] * (1 + 1e-12)
    fitting_G = np.minimum(fits_GL.sum(axis=1), space.counts_G)
    return np.asarray(np.maximum(fitting_G, 1) - 1, dtype=np.int64)
