"""Predicted task loss of every level, and the best single moves.

Shape letters: G genes, L levels. Built from the singular values of the `task` projection, whose squares are in units
of the task loss and so compare across matrices.

A move may jump over levels. Where the loss is convex in the parameters, one step is the best move. This holds among
the ranks of a matrix, whose energies descend at a constant price. Dense, which loses nothing, breaks convexity, and
so does a measured latency. Cost is in the unit of the space: parameters by default.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ranksieve.search.errors import InputError
from ranksieve.search.space.space import Genome, SearchSpace

Energies = Sequence[NDArray[np.floating]]
"""Squared singular values per matrix, in units of the task loss, descending."""


def _check(space: SearchSpace, energies: Energies) -> None:
    if len(energies) != len(space.matrices):
        raise InputError("energies", f"need one array per matrix, {len(space.matrices)}, got {len(energies)}")
    for shape, largest, energy in zip(space.matrices, space.largest_ranks, energies, strict=True):
        if energy.ndim != 1 or len(energy) < largest:
            raise InputError(
                "energies", f"{shape.name} needs a vector of at least {largest}, got shape {energy.shape}"
            )
        if not np.isfinite(energy).all() or (energy < 0).any():
            raise InputError("energies", f"{shape.name} has energies that are negative or not finite")
        if (np.diff(energy) > 1e-6 * energy[:-1]).any():
            raise InputError("energies", f"energies of {shape.name} must descend")


class Prices:
    """Predicted losses and best moves for every gene and level.

    Args:
        space: The search space.
        energies: Squared singular values per matrix, descending, at least as many as its largest rank.

    Raises:
        InputError: The energies do not fit the space.
    """

    def __init__(self, space: SearchSpace, energies: Energies) -> None:
        _check(space, energies)
        self.space = space
        self.rows_G = np.arange(len(space))
        self.lost_GL = self._lost(energies)
        """Predicted loss per level: the energy past the ranks.

        It is 0 for dense and infinite past the last level.
        """
        self.down_GL, self.down_ratio_GL = self._moves_down()
        """Best level below each, and the loss per cost saved (infinite at level 0)."""
        self.up_GL, self.up_ratio_GL = self._moves_up()
        """Best level above each, and the loss it saves per cost spent (0 at the top)."""

    def _lost(self, energies: Energies) -> NDArray[np.float64]:
        lost_GL = np.full(self.space.cost_GL.shape, np.inf)
        # dense is rank -1, and the last tail, past all energies, is 0
        tails = [np.append(np.cumsum(energy[::-1].astype(np.float64))[::-1], 0.0) for energy in energies]
        for row, gene in zip(lost_GL, self.space.genes, strict=True):
            ranks_NL = np.array(gene.levels).T
            row[: len(gene.levels)] = sum(
                tails[i][ranks_L] for i, ranks_L in zip(gene.members, ranks_NL, strict=True)
            )
        return lost_GL

    def _moves_down(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        down_GL = np.maximum(np.arange(self.lost_GL.shape[1]) - 1, 0) + np.zeros_like(self.space.cost_GL)
        ratio_GL = np.full(self.lost_GL.shape, np.inf)
        for i, count in enumerate(self.space.counts_G):
            # columns from the level itself downwards: of equal bargains the nearest comes first
            rates_LL = np.where(np.tri(count, k=-1), self._rates(i), np.inf)[1:, ::-1]
            down_GL[i, 1:count] = count - 1 - rates_LL.argmin(axis=1)
            ratio_GL[i, 1:count] = rates_LL.min(axis=1)
        return down_GL, ratio_GL

    def _moves_up(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        up_GL = np.arange(self.lost_GL.shape[1]) + np.zeros_like(self.space.cost_GL)
        ratio_GL = np.zeros(self.lost_GL.shape)
        for i, count in enumerate(self.space.counts_G):
            rates_LL = np.where(np.tri(count), -np.inf, self._rates(i))[:-1]
            up_GL[i, : count - 1] = rates_LL.argmax(axis=1)
            ratio_GL[i, : count - 1] = rates_LL.max(axis=1)
        return up_GL, ratio_GL

    def _rates(self, index: int) -> NDArray[np.float64]:
        """Return the loss per cost between any two levels of a gene, L×L, symmetric."""
        count = self.space.counts_G[index]
        lost_L, cost_L = self.lost_GL[index, :count], self.space.cost_GL[index, :count]
        with np.errstate(invalid="ignore"):
            rates_LL: NDArray[np.float64] = (lost_L[:, None] - lost_L) / (cost_L - cost_L[:, None])
        return rates_LL

    def loss(self, genome: Genome) -> float:
        """Return the predicted loss of a genome, the sum over its genes.

        Settled matrices, which have no gene, add the same to all genomes.
        """
        return float(self.lost_GL[self.rows_G, np.asarray(genome, dtype=np.int64)].sum())

    def implied_weights(self, levels_G: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the gene weights that would make `levels_G` an optimum.

        At an optimum of weighted losses all genes trade loss for cost at one exchange rate λ: the next step up gains
        less than λ per cost, the next step down loses more. Where the prediction agrees the weight is 1. Where a
        search moved a gene against it, the weight says by how much.

        Args:
            levels_G: One level per gene.

        Returns:
            Positive weights, one per gene.
        """
        up_G = self.up_ratio_GL[self.rows_G, levels_G]
        down_G = self.down_ratio_GL[self.rows_G, levels_G]
        inside_G = (up_G > 0) & np.isfinite(down_G) & (down_G > 0)
        if not inside_G.any():
            return np.ones(len(levels_G))
        rate = float(np.median(np.sqrt(up_G[inside_G] * down_G[inside_G])))
        agreed_G = np.minimum(np.maximum(rate, up_G), down_G)
        return np.clip(rate / np.maximum(agreed_G, rate * 1e-6), 1e-6, 1e6)
