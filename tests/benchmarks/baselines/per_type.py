"""Seeds with one density per type of matrix, as a baseline of Lagrangian ones.

Shape letters: G genes, L levels, N genes of one type, K densities of one type.
"""

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ranksieve.search.space.prices import Energies, Prices
from ranksieve.search.space.space import Genome, SearchSpace
from ranksieve.search.start.seeds import levels_at


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
    types = [_Type.priced(prices, rows_N) for rows_N in _rows_by_type(space)]
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


@dataclass(frozen=True, kw_only=True, slots=True)
class _Type:
    """The genes of one type, with the cost and loss of each common density."""

    rows_N: NDArray[np.int64]
    levels_KN: NDArray[np.int64]
    cost_K: NDArray[np.int64]
    lost_K: NDArray[np.float64]

    @classmethod
    def priced(cls, prices: Prices, rows_N: NDArray[np.int64]) -> "_Type":
        space = prices.space
        densities = np.unique(space.cost_GL[rows_N] / space.dense_cost_G[rows_N, None])
        levels_KN = np.stack([levels_at(space, density)[rows_N] for density in densities])
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
