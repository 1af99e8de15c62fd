"""Seeds: genomes to start from, made without scoring.

Shape letters: G genes, L levels, N genes of one type, K densities of one type.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
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

PAPER_DENSITIES = (1.0, 0.9, 0.75, 0.6, 0.5, 0.35, 0.25, 0.2, 0.1, 0.05)
"""Levels of LLM-Sieve, arXiv 2505.18350."""


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
    budget, rows_G = space.budget(share), np.arange(len(space))
    densities = _densities(space, rows_G)
    low, high = 0, len(densities)
    while high - low > 1:
        middle = (low + high) // 2
        if space.cost(_levels_at(space, rows_G, densities[middle])) > budget:
            high = middle
        else:
            low = middle
    return tuple(_levels_at(space, rows_G, densities[low]).tolist())


def per_type(space: SearchSpace, energies: Energies, share: float) -> Genome:
    """Return the best genome with one density per type of gene.

    The density is the same in all layers, and the genome has the least predicted loss at its size. The Lagrangian
    over types starts from nothing and always makes the jump of one type to a higher density that saves most predicted
    loss per parameter. Sizes on the convex hull are reached exactly; in between, jumps that still fit spend the rest.

    Args:
        space: The search space.
        energies: Squared singular values per matrix, in units of the task loss, descending.
        share: Largest share of the dense cost to keep, in [0, 1].

    Returns:
        A genome of at most `share`, or the smallest one. Matrices of a type are rounded down to their levels from a
        common density.

    Raises:
        InputError: The share is outside [0, 1], or the energies do not fit the space.

    Source: Everett 1963 (generalised Lagrange multipliers).
    """
    prices = Prices(space, energies)
    left = space.budget(share) - space.smallest_cost
    types = [_Type.of(prices, rows_N) for rows_N in _rows_by_type(space)]
    chosen = [0] * len(types)
    while True:
        jumps = [one.best_jump(now, left) for one, now in zip(types, chosen, strict=True)]
        _, i, density = max((rate, i, density) for i, (rate, density) in enumerate(jumps))
        if density == chosen[i]:
            break
        left -= int(types[i].cost_K[density] - types[i].cost_K[chosen[i]])
        chosen[i] = density
    levels_G = np.zeros(len(space), dtype=np.int64)
    for one, density in zip(types, chosen, strict=True):
        levels_G[one.rows_N] = one.levels_KN[density]
    return tuple(levels_G.tolist())


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


def random_densities(space: SearchSpace, rng: Random) -> Genome:
    """Return a genome with a random paper density for every matrix.

    This is how we read the paper's first population.

    Args:
        space: The search space.
        rng: Source of randomness.

    Source: LLM-Sieve, arXiv 2505.18350, whose levels these are.
    """
    return from_densities(space, [rng.choice(PAPER_DENSITIES) for _ in space.matrices])


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


@dataclass(frozen=True, kw_only=True, slots=True)
class _Type:
    """The genes of one type, with the cost and loss of each common density."""

    rows_N: NDArray[np.int64]
    levels_KN: NDArray[np.int64]
    cost_K: NDArray[np.int64]
    lost_K: NDArray[np.float64]

    @classmethod
    def of(cls, prices: Prices, rows_N: NDArray[np.int64]) -> "_Type":
        space = prices.space
        levels_KN = np.stack([_levels_at(space, rows_N, density) for density in _densities(space, rows_N)])
        return cls(
            rows_N=rows_N,
            levels_KN=levels_KN,
            cost_K=space.cost_GL[rows_N, levels_KN].sum(axis=1),
            lost_K=prices.lost_GL[rows_N, levels_KN].sum(axis=1),
        )

    def best_jump(self, now: int, left: int) -> tuple[float, int]:
        """Return the loss saved per cost and the density to jump to.

        Return -1 and `now` if no jump fits in `left`.
        """
        spent_K = self.cost_K - self.cost_K[now]
        fits_K = (spent_K > 0) & (spent_K <= left)
        if not fits_K.any():
            return -1.0, now
        saved_K = self.lost_K[now] - self.lost_K
        rates_K = np.where(fits_K, saved_K / np.maximum(spent_K, 1), -1.0)
        best = int(rates_K.argmax())
        return float(rates_K[best]), best


def _rows_by_type(space: SearchSpace) -> list[NDArray[np.int64]]:
    """Group genes by kind; all experts of a block are of one type."""
    rows: dict[str, list[int]] = {}
    for i, gene in enumerate(space.genes):
        rows.setdefault(re.sub(r"(^|(?<=[.+]))\d+(?=[.+]|$)", "*", gene.kind), []).append(i)
    return [np.array(group, dtype=np.int64) for group in rows.values()]


def _densities(space: SearchSpace, rows_N: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return one density per level of any of the genes, ascending.

    Between two neighbouring densities nothing changes.
    """
    densities: NDArray[np.float64] = np.unique(space.cost_GL[rows_N] / space.dense_cost_G[rows_N, None])
    return densities


def _levels_at(space: SearchSpace, rows_N: NDArray[np.int64], density: float) -> NDArray[np.int64]:
    """Return the highest level of each gene that keeps at most `density` of it.

    Genes without such a level take the lowest one.
    """
    fits_NL = space.cost_GL[rows_N] <= density * space.dense_cost_G[rows_N, None] * (1 + 1e-12)
    fitting_N = np.minimum(fits_NL.sum(axis=1), space.counts_G[rows_N])
    return np.asarray(np.maximum(fitting_N, 1) - 1, dtype=np.int64)
