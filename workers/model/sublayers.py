"""Sublayers whose output comes from one matrix, and which die with it.

They are found by running the dense model, not by name, except for experts: an attention or feed-forward module inside
a block returns the very tensor that one of its matrices made. At rank 0 that matrix returns at most its bias,
whatever the others do: they are dead.

Not found, and so never skipped, are sublayers that add to that tensor or scale it (the residual of BLOOM, the experts
next to a shared expert), that return more values (eager attention its weights), that take an object they might change
(keys and values that layers share), or that are no modules of their own (OPT).
"""

from collections.abc import Callable, Container, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from ranksieve.search.space.matrix import MatrixShape
from ranksieve.workers.model.experts import Expert, expert_of

TOKENS = 4

_Made = dict[str, tuple[torch.Tensor, torch.Tensor]]
"""Matrix name → its last output, and a copy that later modules cannot change in place."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sublayer:
    """Module whose output is that of one matrix.

    `matrices` are all the listed ones inside it, including `output`. `rest`: values returned after the tensor; None if
    it returns only the tensor.
    """

    name: str
    output: str
    matrices: tuple[str, ...]
    rest: tuple[None, ...] | None


@torch.no_grad()
def find_sublayers(model: PreTrainedModel, matrices: Sequence[MatrixShape]) -> tuple[Sublayer, ...]:
    """Run the dense model once on a few tokens and find the sublayers.

    It runs without a cache; the outputs of its modules are compared.

    Args:
        model: Model for inference, its matrices not replaced yet.
        matrices: Matrices that may be at rank 0.

    Returns:
        The sublayers that can be skipped, in the order of their output matrices, experts last; the outermost module of
        each.
    """
    if not matrices:
        return ()
    made: _Made = {}
    found: dict[tuple[str, str], Sublayer | None] = {}

    def keep(name: str) -> Callable[..., None]:
        def after_forward(_: nn.Module, __: Any, y: torch.Tensor) -> None:
            made[name] = y, y.clone()

        return after_forward

    def judge(sublayer: Sublayer) -> Callable[..., None]:
        def after_forward(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            key, seen = (sublayer.name, sublayer.output), _judged(sublayer, made, args, kwargs, output)
            found[key] = seen if found.get(key, seen) == seen else None

        return after_forward

    names = [matrix.name for matrix in matrices]
    experts = {name: expert for name in names if (expert := expert_of(model, name)) is not None}
    expert_sublayers = [
        _expert(name, expert, experts)
        for name, expert in experts.items()
        if name.endswith(f".{expert.maps[-1]}")
    ]
    matrices = [matrix for matrix in matrices if matrix.name not in experts]
    candidates = [sublayer for matrix in matrices for sublayer in _around(matrix, names)]
    with ExitStack() as hooks:
        for matrix in matrices:
            module = model.get_submodule(matrix.name)
            hooks.enter_context(module.register_forward_hook(keep(matrix.name)))
        for sublayer in candidates:
            module = model.get_submodule(sublayer.name)
            hooks.enter_context(module.register_forward_hook(judge(sublayer), with_kwargs=True))
        model(input_ids=torch.arange(TOKENS, device=model.device)[None], use_cache=False)
    outermost: dict[str, Sublayer] = {}
    for sublayer in candidates:
        seen = found.get((sublayer.name, sublayer.output))
        if seen is not None:
            outermost.setdefault(seen.output, seen)
    return (*outermost.values(), *expert_sublayers)


def live_ranks(
    matrices: Sequence[MatrixShape], ranks: Sequence[int], sublayers: Sequence[Sublayer]
) -> tuple[int, ...]:
    """Return a candidate's ranks with all matrices of dead sublayers at rank 0."""
    gone = {matrix.name for matrix, rank in zip(matrices, ranks, strict=True) if rank == 0}
    dead = {name for sublayer in sublayers if sublayer.output in gone for name in sublayer.matrices}
    return tuple(0 if matrix.name in dead else rank for matrix, rank in zip(matrices, ranks, strict=True))


def leaves_no_trace(values: Sequence[Any]) -> bool:
    """Return whether a module called with these values changes nothing else.

    Values that are not plain may be a cache.
    """
    return all(
        leaves_no_trace(value)
        if isinstance(value, tuple)
        else value is None or isinstance(value, torch.Tensor | bool | int | float | str)
        for value in values
    )


def _expert(output: str, expert: Expert, names: Container[str]) -> Sublayer:
    """Return the expert whose last matrix this is, with its matrices among the names."""
    module = output.rpartition(".")[0]
    matrices = tuple(f"{module}.{name}" for name in expert.maps)
    return Sublayer(
        name=module, output=output, matrices=tuple(name for name in matrices if name in names), rest=None
    )


def _around(matrix: MatrixShape, all_names: Sequence[str]) -> list[Sublayer]:
    """Return the modules between a block and a matrix, the outermost first."""
    block, parts = matrix.name.removesuffix(f".{matrix.kind}"), matrix.kind.split(".")
    names = [".".join((block, *parts[:depth])) for depth in range(1, len(parts))]
    return [
        Sublayer(
            name=name,
            output=matrix.name,
            matrices=tuple(other for other in all_names if other.startswith(f"{name}.")),
            rest=None,
        )
        for name in names
    ]


def _judged(
    sublayer: Sublayer,
    made: _Made,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    output: Any,
) -> Sublayer | None:
    """Return the sublayer with the values behind its tensor; None if it must be run."""
    if sublayer.output not in made:
        return None
    y, unchanged = made[sublayer.output]
    inputs = (*args, *kwargs.values())
    first, *rest = output if isinstance(output, tuple) else (output,)
    if first is not y or not y.equal(unchanged) or any(value is not None for value in rest):
        return None
    if not leaves_no_trace(inputs) or not isinstance(inputs[0], torch.Tensor) or inputs[0].shape != y.shape:
        return None
    return replace(sublayer, rest=tuple(rest) if isinstance(output, tuple) else None)
