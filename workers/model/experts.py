"""Experts of a mixture as modules with linear maps; imports only torch.

Copied into exports.

transformers keeps all experts of a block in one module, their weights stacked: E×O×D, or E×D×O where it calls them
transposed. Here each is a module with two `nn.Linear`, `gate_up` (`up` without a gate) and `down`, which can be
compressed like any other.

Legend: E experts, N tokens, k experts of a token, P tokens of one expert, O output width, D input width.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

STACKED = ("down_proj", "has_gate", "has_bias", "has_post_expert_norm", "is_transposed", "num_experts")
"""Attributes of a module of stacked experts in transformers' own interface."""


class Expert(nn.Module):
    """One expert, for the tokens that are sent to it.

    `maps`: names of its linear maps, the last of which makes its output. `tokens_P`: indices of its tokens among the
    `of` tokens of its last call.
    """

    def __init__(
        self, inner: nn.Linear, down: nn.Linear, activate: Callable[[torch.Tensor], torch.Tensor], gated: bool
    ) -> None:
        super().__init__()
        self.maps = ("gate_up" if gated else "up", "down")
        self._activate = activate
        for name, linear in zip(self.maps, (inner, down), strict=True):
            self.add_module(name, linear)
        self.tokens_P: torch.Tensor | None = None
        self.of = 0

    def forward(self, x_PD: torch.Tensor) -> torch.Tensor:
        inner, down = (getattr(self, name) for name in self.maps)
        y_PD: torch.Tensor = down(self._activate(inner(x_PD)))
        return y_PD


class Experts(nn.Module):
    """Replacement of a module of stacked experts, with equal inputs and outputs.

    Args:
        stacked: The module; its weights are copied, everything else is shared.
    """

    num_experts: int
    has_gate: bool
    has_post_expert_norm: bool
    act_fn: Callable[[torch.Tensor], torch.Tensor]
    post_expert_norm: Callable[[torch.Tensor], torch.Tensor]

    def __init__(self, stacked: nn.Module) -> None:
        super().__init__()
        own = {*stacked._parameters, *vars(nn.Module())}
        vars(self).update({name: value for name, value in vars(stacked).items() if name not in own})
        for name, module in stacked.named_children():
            self.add_module(name, module)
        self._stacked_class: Any = type(stacked)
        for index in range(self.num_experts):
            inner = _linear(stacked, "gate_up_proj" if self.has_gate else "up_proj", index)
            expert = Expert(inner, _linear(stacked, "down_proj", index), self._activated, self.has_gate)
            self.add_module(str(index), expert)
        self.train(stacked.training)

    def forward(
        self, hidden_states: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor
    ) -> torch.Tensor:
        """Return the weighted sum of each token's experts.

        Args:
            hidden_states: N×D.
            top_k_index: N×k, numbers of experts; `num_experts` and above is no expert.
            top_k_weights: N×k.
        """
        tokens, chosen = top_k_index.shape
        order = top_k_index.flatten().argsort(stable=True)
        sizes = torch.bincount(top_k_index.flatten(), minlength=self.num_experts)[: self.num_experts].tolist()
        order = order[: sum(sizes)]  # the rest has no expert here
        # each token k times, then sorted: gradients add up in a fixed order, whatever the threads do
        pairs = hidden_states[:, None].expand(-1, chosen, -1).flatten(0, 1)
        inputs, returned = torch.split(pairs[order], sizes), []
        for index, tokens_P in enumerate(torch.split(order // chosen, sizes)):
            expert: Any = self._modules[str(index)]
            expert.tokens_P, expert.of = tokens_P, tokens
            if len(tokens_P):
                returned.append(expert(inputs[index]))
        y_PD = torch.cat(returned) if returned else pairs[order]
        if self.has_post_expert_norm:
            y_PD = self.post_expert_norm(y_PD)
        y_PD = y_PD * top_k_weights.flatten()[order, None]
        weighted = torch.zeros_like(pairs, dtype=y_PD.dtype).index_copy(0, order, y_PD)
        return weighted.view(tokens, chosen, -1).sum(dim=1).to(hidden_states.dtype)

    def _activated(self, inner: torch.Tensor) -> torch.Tensor:
        """Apply the stacked experts' function between the two maps."""
        gated: torch.Tensor = (
            self._stacked_class._apply_gate(self, inner) if self.has_gate else self.act_fn(inner)
        )
        return gated


def stacked_experts(model: nn.Module) -> list[str]:
    """Return the names of a model's modules of stacked experts."""
    return [name for name, module in model.named_modules() if all(hasattr(module, has) for has in STACKED)]


def take_apart(model: nn.Module, names: Iterable[str]) -> None:
    """Replace these modules of stacked experts by `Experts`."""
    for name in names:
        model.set_submodule(name, Experts(model.get_submodule(name)))


def expert_of(model: nn.Module, name: str) -> Expert | None:
    """Return the expert that a matrix belongs to, if any."""
    parent = model.get_submodule(name.rpartition(".")[0])
    return parent if isinstance(parent, Expert) else None


def _linear(stacked: nn.Module, name: str, index: int) -> nn.Linear:
    """Copy one expert's map, its weight O×D and contiguous."""
    weight_OD = getattr(stacked, name)[index].detach()
    if stacked.is_transposed:
        weight_OD = weight_OD.T
    bias_O = getattr(stacked, f"{name}_bias")[index].detach() if stacked.has_bias else None
    linear = nn.Linear(weight_OD.shape[1], weight_OD.shape[0], bias=bias_O is not None, device="meta")
    linear.weight = nn.Parameter(weight_OD.clone(memory_format=torch.contiguous_format))
    if bias_O is not None:
        linear.bias = nn.Parameter(bias_O.clone())
    return linear
