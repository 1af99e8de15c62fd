"""Low-rank layers of an exported model; copied into exports, so torch only.

Legend: O output width, D input width, R rank.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn


class LowRankLinear(nn.Module):
    """Linear map `y = up(down(x))`; rank 0 leaves the bias, or zeros.

    `down` is R×D, `up` is O×R.
    """

    def __init__(self, in_features: int, out_features: int, rank: int, bias: bool) -> None:
        super().__init__()
        self._dtype = torch.get_default_dtype()  # of the layer, even without parameters
        self.in_features = in_features
        self.out_features = out_features
        self.rank = rank
        if rank > 0:
            self.down = nn.Linear(in_features, rank, bias=False)
            self.up = nn.Linear(rank, out_features, bias=bias)
        else:
            self._parameters["bias"] = nn.Parameter(torch.zeros(out_features)) if bias else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.rank > 0:
            y: torch.Tensor = self.up(self.down(x))
            return y
        y = x.new_zeros((*x.shape[:-1], self.out_features))
        return y if self.bias is None else y + self.bias

    @property
    def bias(self) -> nn.Parameter | None:
        """Bias of the layer, wherever it is kept, for a model's own code that reads it."""
        return self.up.bias if self.rank > 0 else self._parameters["bias"]

    @property
    def weight(self) -> torch.Tensor:
        """Product of both maps, O×D; zeros at rank 0.

        A model's own code may ask for its shape or type.
        """
        if self.rank == 0:
            return torch.zeros(self.out_features, self.in_features, dtype=self._dtype)
        weight: torch.Tensor = self.up.weight @ self.down.weight
        return weight

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> "LowRankLinear":
        self._dtype = fn(torch.empty(0, dtype=self._dtype, device="cpu")).dtype
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call, no-any-return]

    def set_bias(self, bias: nn.Parameter) -> None:
        """Replace the empty bias by the dense module's."""
        if self.rank > 0:
            self.up.bias = bias
        else:
            self._parameters["bias"] = bias


def own_name(model: Any, name: str) -> str:
    """Return the name that a module of the causal model has in this one.

    The architecture's base model has no prefix; models with another head have the same one.
    """
    prefix = model.base_model_prefix
    return name if hasattr(model, prefix) else name.removeprefix(f"{prefix}.")


def shrink(model: Any, recipe: Mapping[str, Any]) -> None:
    """Give a dense model the empty layers of an export.

    Args:
        model: Changed in place.
        recipe: `ranks`, by the causal model's names.
    """
    replace_linears(model, {own_name(model, name): rank for name, rank in recipe["ranks"].items()})


def replace_linears(model: nn.Module, ranks: Mapping[str, int]) -> None:
    """Replace the named linear modules by empty ones of the given ranks.

    Biases are carried over.

    Args:
        model: Changed in place.
        ranks: Module name → rank.
    """
    for name, rank in ranks.items():
        dense = model.get_submodule(name)
        out_features, in_features = dense.weight.shape  # type: ignore[misc]
        if not isinstance(dense, nn.Linear):  # GPT-2's Conv1D stores the transpose
            out_features, in_features = in_features, out_features
        bias = dense.bias
        low_rank = LowRankLinear(int(in_features), int(out_features), rank, bias is not None)
        low_rank.to(dense.weight.device, dense.weight.dtype)  # type: ignore[arg-type]
        if bias is not None:
            low_rank.set_bias(bias)  # type: ignore[arg-type]
        model.set_submodule(name, low_rank)
