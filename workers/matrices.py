"""Which modules of a causal LM are prunable weight matrices, and where they sit.

Architecture names stay out of here: the transformer blocks are the children of the longest
`ModuleList` of same-class modules, and every linear map inside them is a candidate.
"""

from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from search.errors import InputError
from search.space import MatrixShape

LinearModule = nn.Linear | Conv1D


def block_list(model: nn.Module) -> tuple[str, nn.ModuleList]:
    """The model's transformer blocks.

    Returns:
        Dotted name of the `ModuleList` and the list itself.

    Raises:
        InputError: No module list of two or more same-class blocks with linear maps, nor a single one.
    """
    best: tuple[str, nn.ModuleList] | None = None
    for name, module in model.named_modules():
        if not isinstance(module, nn.ModuleList) or len({type(child) for child in module}) != 1:
            continue
        if not any(isinstance(child, LinearModule) for child in module.modules()):
            continue
        if best is None or len(module) > len(best[1]):
            best = (name, module)
    if best is None:
        raise InputError(
            "model",
            f"{type(model).__name__} has no transformer blocks with linear layers; "
            "expected a decoder-only language model with nn.Linear or Conv1D projections",
        )
    return best


def iter_linears(model: nn.Module) -> Iterator[tuple[str, int, LinearModule]]:
    """Yields (dotted name, block index, module) of every linear map inside the blocks, in model order."""
    prefix, blocks = block_list(model)
    for index, block in enumerate(blocks):
        for name, module in block.named_modules():
            if isinstance(module, LinearModule):
                yield f"{prefix}.{index}.{name}", index, module


def weight_OD(module: LinearModule) -> torch.Tensor:
    """The weight as O×D (`Conv1D` stores D×O); a view, not a copy."""
    return module.weight.T if isinstance(module, Conv1D) else module.weight


def find_matrices(
    model: nn.Module, include: Sequence[str] = ("*",), exclude: Sequence[str] = ()
) -> tuple[MatrixShape, ...]:
    """Lists the matrices to prune, in model order.

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
        if _matches(name, include) and not _matches(name, exclude):
            out_features, in_features = weight_OD(module).shape
            kind = name.split(f".{layer}.", 1)[1]
            found.append(
                MatrixShape(
                    name=name, out_features=out_features, in_features=in_features, layer=layer, kind=kind
                )
            )
    if not found:
        raise InputError(
            "model.include",
            f"no matrix matches include={list(include)} and exclude={list(exclude)}; "
            f"the model's matrices are named like {names[0]!r}",
        )
    return tuple(found)


def linear_params(model: nn.Module) -> int:
    """Parameters of all linear weights inside the blocks, biases not counted."""
    return sum(module.weight.numel() for _, _, module in iter_linears(model))


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) or fnmatchcase(name, f"*.{pattern}") for pattern in patterns)
