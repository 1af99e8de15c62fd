"""Model on the way to a smaller one, for the loss's curvature at large cuts.

With W(t) = W + t (Ŵ - W) on the straight way from the dense weights (t = 0) to compressed ones (t = 1), Taylor's
theorem with its remainder as an integral says what compression does to the loss f of the weights,

    f(1) - f(0) = df/dt (0) + ∫₀¹ (1 - t) d²f/dt² dt

For the KL divergence to the dense model the first term is zero. Energies of second order around the dense model use
its curvature for the whole way. One point of Gaussian quadrature with the weight 1 - t is exact for a curvature
linear in t; it is t = 1/3. So the Grams are gathered there: from the inputs of that model, and from the gradients at
the output of each whole dense matrix.

Legend: O output width, D input width, r rank.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from ranksieve.search.space.matrix import DENSE, MatrixShape
from ranksieve.workers.model.matrices import LinearModule

NODE = 1 / 3
"""Node of one-point Gaussian quadrature on [0, 1] with the weight 1 - t."""

ONE_IN, LEAST = 8, 64
"""One in `ONE_IN` calibration examples gives the direction, at least `LEAST`: a rough one suffices.

For the same reason its factors are computed in float32.
"""


def examples_of_the_way(examples: int) -> int:
    """Return how many calibration examples give the direction's Grams."""
    return min(examples, max(LEAST, -(-examples // ONE_IN)))


class MidwayLinear(nn.Module):
    """Linear map that is `NODE` of the way to its low-rank approximation.

    `dense` is the whole dense map, and its output is W x, as without compression. The gradient that reaches it is
    that of the map's output times `gradient_share`.

    Args:
        dense: The dense map.
        left_rO, right_rD: The factors at their rank, in the model's dtype; without rows at rank 0.
    """

    def __init__(self, dense: LinearModule, left_rO: torch.Tensor, right_rD: torch.Tensor) -> None:
        super().__init__()
        self.dense = dense
        self.left_rO: torch.Tensor = nn.Buffer(left_rO, persistent=False)
        self.right_rD: torch.Tensor = nn.Buffer(right_rD, persistent=False)

    def forward(self, x_BLD: torch.Tensor) -> torch.Tensor:
        y_BLO: torch.Tensor = self.dense(x_BLD)
        kept_BLO = F.linear(F.linear(x_BLD, self.right_rD), self.left_rO.T, self.dense.bias)
        return torch.lerp(y_BLO, kept_BLO, NODE)


def go_midway(
    model: PreTrainedModel,
    matrices: Sequence[MatrixShape],
    ranks: Sequence[int],
    factors: Mapping[str, tuple[torch.Tensor, torch.Tensor]],
) -> None:
    """Move a dense model `NODE` of the way to a candidate, in place.

    Args:
        model: The dense model.
        matrices: All matrices with factors.
        ranks: One per matrix; -1 leaves it dense.
        factors: Matrix name → (left R×O, right R×D), components in rows.
    """
    for matrix, rank in zip(matrices, ranks, strict=True):
        if rank != DENSE:
            dense = dense_module(model, matrix.name)
            device, dtype = dense.weight.device, dense.weight.dtype
            left_rO, right_rD = (factor[:rank].to(device, dtype) for factor in factors[matrix.name])
            model.set_submodule(matrix.name, MidwayLinear(dense, left_rO, right_rD))


def gradient_share(model: PreTrainedModel, name: str) -> float:
    """Return the factor of a matrix's output gradient at its dense map."""
    return 1 - NODE if isinstance(model.get_submodule(name), MidwayLinear) else 1.0


def dense_module(model: PreTrainedModel, name: str) -> LinearModule:
    """Return a matrix's dense map, in a dense model or a midway one."""
    module = model.get_submodule(name)
    dense = module.dense if isinstance(module, MidwayLinear) else module
    assert isinstance(dense, LinearModule)
    return dense
