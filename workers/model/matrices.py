"""Prunable weight matrices of a causal LM, and their places.

Independent of architecture names: the transformer blocks are the children of the `ModuleList` with the most weights.
Every linear map inside them is a candidate, those of experts once they are taken apart (`workers.model.experts`). Not
pruned, but counted among the blocks' weights: experts that a model stacks in a way of its own, routers and other
modules that do more than `x Wᵀ + b`, and weights used at several places.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TypeGuard

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from ranksieve.search.errors import InputError
from ranksieve.search.space.constraints import matches
from ranksieve.search.space.matrix import MatrixShape

LinearModule = nn.Linear | Conv1D

OWN_ATTRIBUTES = {"training", "in_features", "out_features", "nx", "nf"}
"""Public attributes of `nn.Linear` and `Conv1D` themselves."""


def block_list(model: nn.Module) -> tuple[str, nn.ModuleList]:
    """Return the model's transformer blocks, which may be of several classes.

    Returns:
        Dotted name of the `ModuleList` and the list itself.

    Raises:
        InputError: No module list has a linear map inside its modules.
    """
    lists = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and any(map(_holds_linear, module))
    ]
    if not lists:
        raise InputError(
            "model",
            f"{type(model).__name__} has no transformer blocks with linear layers; "
            "expected a decoder-only language model with nn.Linear or Conv1D projections",
        )
    return max(lists, key=lambda found: _matrix_params(found[1]))  # the first of equals is the outer one


def iter_linears(model: nn.Module) -> Iterator[tuple[str, int, LinearModule]]:
    """Yield every prunable linear map inside the blocks, in model order.

    Each as (dotted name, block index, module).
    """
    prefix, blocks = block_list(model)
    uses = Counter(id(parameter) for _, parameter in model.named_parameters(remove_duplicate=False))
    for index, block in enumerate(blocks):
        for name, module in block.named_modules(prefix=f"{prefix}.{index}"):
            if _is_linear(module) and uses[id(module.weight)] == 1:
                yield name, index, module


def weight_OD(module: LinearModule) -> torch.Tensor:
    """Return the weight as an O×D view (`Conv1D` stores D×O)."""
    return module.weight.T if isinstance(module, Conv1D) else module.weight


def find_matrices(
    model: nn.Module, include: Sequence[str] = ("*",), exclude: Sequence[str] = ()
) -> tuple[MatrixShape, ...]:
    """List the matrices to prune, in model order.

    Args:
        model: A causal LM; tensors may be on the meta device.
        include: Shell patterns, matched against the full dotted name or any suffix of it after a dot.
        exclude: Patterns of matrices to leave dense.

    Raises:
        InputError: The model has no blocks, or no matrix matches.
    """
    found = []
    names = []
    for name, layer, module in iter_linears(model):
        names.append(name)
        if matches(name, include) and not matches(name, exclude):
            out_features, in_features = weight_OD(module).shape
            kind = name.split(f".{layer}.", 1)[1]
            found.append(
                MatrixShape(
                    name=name, out_features=out_features, in_features=in_features, layer=layer, kind=kind
                )
            )
    if not names:
        raise InputError(
            "model", "every weight in the blocks is used at several places; such a model cannot be pruned"
        )
    if not found:
        raise InputError(
            "model.include",
            f"no matrix matches include={list(include)} and exclude={list(exclude)}; "
            f"the model's matrices are named like {names[0]!r}",
        )
    return tuple(found)


def linear_params(model: nn.Module) -> int:
    """Count the weights of all linear maps inside the blocks, prunable or not.

    Every tensor of two or more dimensions counts once, stacked experts and routers too; no biases, no norms.
    """
    return _matrix_params(block_list(model)[1])


def _holds_linear(block: nn.Module) -> bool:
    return any(_is_linear(module) for module in block.modules() if module is not block)


def _is_linear(module: nn.Module) -> TypeGuard[LinearModule]:
    """Return whether the module computes `x Wᵀ + b` and no more.

    A subclass with a forward of its own counts if it adds no attribute: a router has its number of experts, a quantized
    layer its scales.
    """
    if not isinstance(module, LinearModule):
        return False
    if type(module).forward in (nn.Linear.forward, Conv1D.forward):
        return True
    public = {name for name in vars(module) if not name.startswith("_")}
    return public <= OWN_ATTRIBUTES and set(module._parameters) == {"weight", "bias"}


def _matrix_params(module: nn.Module) -> int:
    return sum(
        parameter.numel()
        for name, parameter in module.named_parameters()
        if parameter.dim() > 1 and not name.endswith("bias")
    )


def factor_numbers(matrices: Sequence[MatrixShape]) -> int:
    """Count the numbers of stored factors: R·(O+D) per matrix, R its largest rank."""
    return sum(max(1, m.largest_rank) * (m.out_features + m.in_features) for m in matrices)
