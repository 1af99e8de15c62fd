"""The low-rank layer of an exported model. Copied into every export, so it knows torch and nothing else.

Legend: O output width, D input width, R rank.
"""

from collections.abc import Mapping

import torch
from torch import nn


class LowRankLinear(nn.Module):
    """`y = up(down(x))`: an R×D map, then an O×R map; rank 0 leaves the bias, or zeros."""

    def __init__(self, in_features: int, out_features: int, rank: int, bias: bool) -> None:
        super().__init__()
        self.out_features = out_features
        self.rank = rank
        if rank > 0:
            self.down = nn.Linear(in_features, rank, bias=False)
            self.up = nn.Linear(rank, out_features, bias=bias)
        elif bias:
            self.bias = nn.Parameter(torch.zeros(out_features))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.rank > 0:
            y: torch.Tensor = self.up(self.down(x))
            return y
        y = x.new_zeros((*x.shape[:-1], self.out_features))
        return y + self.bias if hasattr(self, "bias") else y


def replace_linears(model: nn.Module, ranks: Mapping[str, int]) -> None:
    """Replaces the named linear modules by empty low-rank ones of the given ranks; biases are carried over."""
    for name, rank in ranks.items():
        dense = model.get_submodule(name)
        out_features, in_features = dense.weight.shape  # type: ignore[misc]
        if not isinstance(dense, nn.Linear):  # GPT-2's Conv1D stores the transpose
            out_features, in_features = in_features, out_features
        bias = dense.bias
        low_rank = LowRankLinear(int(in_features), int(out_features), rank, bias is not None)
        low_rank.to(dense.weight.device, dense.weight.dtype)  # type: ignore[arg-type]
        if bias is not None:
            if rank > 0:
                low_rank.up.bias = bias  # type: ignore[assignment]
            else:
                low_rank.bias = bias  # type: ignore[assignment]
        model.set_submodule(name, low_rank)
