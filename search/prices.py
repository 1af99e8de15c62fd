"""What every level costs in predicted task loss, and which single move is the best bargain.

Shape letters: M matrices, L levels. Built from the singular values of the `task` projection, whose squares
are in units of the task loss and so compare across matrices.

A move may jump over levels. Where the loss is convex in the parameters, one step is the best bargain: so it is among
the ranks of pairs, whose energies descend at a constant price. Dense, which loses nothing, breaks convexity, and so
does a price per rank that falls as the rank grows, as that of the pivoted storage does.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from search.errors import InputError
from search.space import DENSE, Genome, SearchSpace

Energies = Sequence[NDArray[np.floating]]
"""Per matrix, the squared singular values in units of the task loss, descending."""


def _check(space: SearchSpace, energies: Energies) -> None:
    if len(energies) != len(space):
        raise InputError("energies", f"need one array per matrix, {len(space)}, got {len(energies)}")
    for shape, levels, energy in zip(space.matrices, space.levels, energies, strict=True):
        largest = max(levels)
        if energy.ndim != 1 or len(energy) < largest:
            raise InputError(
                "energies", f"{shape.name} needs a vector of at least {largest}, got shape {energy.shape}"
            )
        if not np.isfinite(energy).all() or (energy < 0).any():
            raise InputError("energies", f"{shape.name} has energies that are negative or not finite")
        if (np.diff(energy) > 1e-6 * energy[:-1]).any():
            raise InputError("energies", f"energies of {shape.name} must descend")


class Prices:
    """Predicted loss and best moves for every matrix and level.

    Args:
        space: The search space.
        energies: Per matrix, squared singular values, descending, at least as many as its largest rank.

    Raises:
        InputError: Energies that do not fit the space.
    """

    def __init__(self, space: SearchSpace, energies: Energies) -> None:
        _check(space, energies)
        self.space = space
        self.rows_M = np.arange(len(space))
        self.lost_ML = self._lost(energies)
        """Predicted loss per level: the energy past its rank, 0 for dense, infinite past the last level."""
        self.down_ML, self.down_ratio_ML = self._moves_down()
        """Best level below each, and the loss it costs per parameter saved (infinite at level 0)."""
        self.up_ML, self.up_ratio_ML = self._moves_up()
        """Best level above each, and the loss it saves per parameter spent (0 when dense)."""

    def _lost(self, energies: Energies) -> NDArray[np.float64]:
        lost_ML = np.full(self.space.params_ML.shape, np.inf)
        for row, levels, energy in zip(lost_ML, self.space.levels, energies, strict=True):
            tails = np.append(np.cumsum(energy[::-1].astype(np.float64))[::-1], 0.0)
            row[: len(levels)] = [0.0 if rank == DENSE else tails[rank] for rank in levels]
        return lost_ML

    def _moves_down(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        down_ML = np.maximum(np.arange(self.lost_ML.shape[1]) - 1, 0) + np.zeros_like(self.space.params_ML)
        ratio_ML = np.full(self.lost_ML.shape, np.inf)
        for i, count in enumerate(self.space.counts_M):
            # columns from the level itself downwards: of equal bargains the nearest comes first
            rates_LL = np.where(np.tri(count, k=-1), self._rates(i), np.inf)[1:, ::-1]
            down_ML[i, 1:count] = count - 1 - rates_LL.argmin(axis=1)
            ratio_ML[i, 1:count] = rates_LL.min(axis=1)
        return down_ML, ratio_ML

    def _moves_up(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        up_ML = np.arange(self.lost_ML.shape[1]) + np.zeros_like(self.space.params_ML)
        ratio_ML = np.zeros(self.lost_ML.shape)
        for i, count in enumerate(self.space.counts_M):
            rates_LL = np.where(np.tri(count), -np.inf, self._rates(i))[:-1]
            up_ML[i, : count - 1] = rates_LL.argmax(axis=1)
            ratio_ML[i, : count - 1] = rates_LL.max(axis=1)
        return up_ML, ratio_ML

    def _rates(self, index: int) -> NDArray[np.float64]:
        """Loss per parameter between any two levels of a matrix, L×L, symmetric; nan on the diagonal."""
        count = self.space.counts_M[index]
        lost_L, params_L = self.lost_ML[index, :count], self.space.params_ML[index, :count]
        with np.errstate(invalid="ignore"):
            rates_LL: NDArray[np.float64] = (lost_L[:, None] - lost_L) / (params_L - params_L[:, None])
        return rates_LL

    def loss(self, genome: Genome) -> float:
        """Predicted loss of a genome: the sum over its matrices."""
        return float(self.lost_ML[self.rows_M, np.asarray(genome, dtype=np.int64)].sum())

    def implied_weights(self, levels_M: NDArray[np.int64]) -> NDArray[np.float64]:
        """How much more each matrix must matter than predicted for `levels_M` to be an optimum.

        At an optimum of weighted losses all matrices trade loss for parameters at one exchange rate λ: the
        next step up gains less than λ per parameter, the next step down costs more. Where the prediction
        agrees the weight is 1; where a search moved a matrix against it, the weight says by how much.

        Args:
            levels_M: One level per matrix.

        Returns:
            Positive weights, one per matrix.
        """
        up_M = self.up_ratio_ML[self.rows_M, levels_M]
        down_M = self.down_ratio_ML[self.rows_M, levels_M]
        inside_M = (up_M > 0) & np.isfinite(down_M) & (down_M > 0)
        if not inside_M.any():
            return np.ones(len(levels_M))
        rate = float(np.median(np.sqrt(up_M[inside_M] * down_M[inside_M])))
        agreed_M = np.minimum(np.maximum(rate, up_M), down_M)
        return np.clip(rate / np.maximum(agreed_M, rate * 1e-6), 1e-6, 1e6)
