"""Running a matrix at any rank: a module whose rank is one number.

Legend: B batch, L length, O output width, D input width, R largest rank in the factors, r the rank in use.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from search.space import DENSE, MatrixShape
from workers.matrices import LinearModule, weight_OD


class SwitchableLinear(nn.Module):
    """A linear map that runs dense or through the first `rank` components of its factors.

    Changing `rank` costs nothing: both factors are sliced as views when the module runs. Rank 0 is the matrix
    gone, its bias kept.

    Args:
        dense: The module it stands in for; its weight and bias are shared, not copied.
        left_RO, right_RD: Nested factors, components in rows, in the dtype of the model.
    """

    def __init__(self, dense: LinearModule, left_RO: torch.Tensor, right_RD: torch.Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight_OD(dense), requires_grad=False)
        self.bias = dense.bias
        self.rank = DENSE
        self.left_RO = nn.Buffer(left_RO, persistent=False)
        self.right_RD = nn.Buffer(right_RD, persistent=False)

    def forward(self, x_BLD: torch.Tensor) -> torch.Tensor:
        if self.rank == DENSE:
            return F.linear(x_BLD, self.weight, self.bias)
        if self.rank == 0:
            y_BLO = x_BLD.new_zeros((*x_BLD.shape[:-1], len(self.weight)))
            return y_BLO if self.bias is None else y_BLO + self.bias
        hidden_BLr = F.linear(x_BLD, self.right_RD[: self.rank])
        return F.linear(hidden_BLr, self.left_RO[: self.rank].T, self.bias)


class SwitchableModel:
    """A causal LM whose listed matrices run at the ranks of the current candidate.

    The model is changed in place: its linear modules are replaced by `SwitchableLinear`.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        matrices: Sequence[MatrixShape],
        factors: Mapping[str, tuple[torch.Tensor, torch.Tensor]],
    ) -> None:
        self.model = model
        self._modules = [_replace(model, matrix.name, *factors[matrix.name]) for matrix in matrices]

    def switch(self, ranks: Sequence[int]) -> None:
        """Makes the model the candidate with these ranks, in the order of the matrices (-1 is dense)."""
        for module, rank in zip(self._modules, ranks, strict=True):
            module.rank = rank


def _replace(
    model: PreTrainedModel, name: str, left_RO: torch.Tensor, right_RD: torch.Tensor
) -> SwitchableLinear:
    dense = model.get_submodule(name)
    assert isinstance(dense, LinearModule)
    device, dtype = dense.weight.device, dense.weight.dtype
    module = SwitchableLinear(dense, left_RO.to(device, dtype), right_RD.to(device, dtype))
    model.set_submodule(name, module)
    return module
