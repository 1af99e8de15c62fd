"""Matrices that run at any rank: modules whose rank is one number.

Legend: B batch, L length, O output width, D input width, R largest rank in the factors, r the rank in use.
"""

from collections.abc import Mapping, Sequence
from functools import wraps
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from ranksieve.search.space.matrix import DENSE, MatrixShape
from ranksieve.workers.model.matrices import LinearModule, weight_OD
from ranksieve.workers.model.sublayers import Sublayer, find_sublayers, leaves_no_trace, live_ranks


class SwitchableLinear(nn.Module):
    """Linear map that runs dense or through the first `rank` of its components.

    Changing `rank` costs nothing: both factors are sliced as views when the module runs. Rank 0 is the matrix
    gone, its bias kept.

    Args:
        dense: The module it stands in for; its weight and bias are shared, not copied.
        left_RO, right_RD: Nested factors, components in rows, in the model's dtype, or float32 to train them.
    """

    def __init__(self, dense: LinearModule, left_RO: torch.Tensor, right_RD: torch.Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight_OD(dense), requires_grad=False)
        self.bias = dense.bias
        self.rank = DENSE
        self.left_RO: torch.Tensor = nn.Buffer(left_RO, persistent=False)
        self.right_RD: torch.Tensor = nn.Buffer(right_RD, persistent=False)

    def forward(self, x_BLD: torch.Tensor) -> torch.Tensor:
        if self.rank == DENSE:
            return F.linear(x_BLD, self.weight, self.bias)
        if self.rank == 0:
            y_BLO = x_BLD.new_zeros((*x_BLD.shape[:-1], len(self.weight)))
            return y_BLO if self.bias is None else y_BLO + self.bias
        hidden_BLr = F.linear(x_BLD, self.right_RD[: self.rank].to(x_BLD.dtype))
        return F.linear(hidden_BLr, self.left_RO[: self.rank].T.to(x_BLD.dtype), self.bias)


class SwitchableModel:
    """Causal LM whose listed matrices run at the ranks of the current candidate.

    The model is changed in place: its linear modules are replaced by `SwitchableLinear`. A sublayer whose output
    matrix is at rank 0 is not run (see `model.sublayers`). With a cache, which must grow in every layer, it is run
    with all its matrices at rank 0.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        matrices: Sequence[MatrixShape],
        factors: Mapping[str, tuple[torch.Tensor, torch.Tensor]],
    ) -> None:
        self.model = model
        self.matrices = tuple(matrices)
        self._sublayers = find_sublayers(model, matrices)
        self._modules = [_replace(model, matrix.name, *factors[matrix.name]) for matrix in matrices]
        for sublayer in self._sublayers:
            _skip_while_dead(model, sublayer)
        self._ranks: tuple[int, ...] = ()

    def switch(self, ranks: Sequence[int]) -> None:
        """Switch the model to these ranks, in the order of the matrices (-1 is dense)."""
        if (wanted := tuple(ranks)) == self._ranks:
            return
        live = live_ranks(self.matrices, wanted, self._sublayers)
        for module, rank in zip(self._modules, live, strict=True):
            module.rank = rank
        self._ranks = wanted


def switchable_module(model: PreTrainedModel, name: str) -> SwitchableLinear:
    """Return the module of one matrix that `SwitchableModel` has replaced."""
    module = model.get_submodule(name)
    assert isinstance(module, SwitchableLinear)
    return module


def _replace(
    model: PreTrainedModel, name: str, left_RO: torch.Tensor, right_RD: torch.Tensor
) -> SwitchableLinear:
    dense = model.get_submodule(name)
    assert isinstance(dense, LinearModule)
    device, dtype = dense.weight.device, dense.weight.dtype
    module = SwitchableLinear(dense, left_RO.to(device, dtype), right_RD.to(device, dtype))
    model.set_submodule(name, module)
    return module


def _skip_while_dead(model: PreTrainedModel, sublayer: Sublayer) -> None:
    module, output = model.get_submodule(sublayer.name), model.get_submodule(sublayer.output)
    run = module.forward

    @wraps(run)
    def forward(*args: Any, **kwargs: Any) -> Any:
        inputs = (*args, *kwargs.values())
        if output.rank != 0 or not leaves_no_trace(inputs):
            return run(*args, **kwargs)
        y = output(inputs[0])  # at rank 0 it only needs the leading shape
        return y if sublayer.rest is None else (y, *sublayer.rest)

    module.forward = forward
