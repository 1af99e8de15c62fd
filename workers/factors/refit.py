"""Left factors and biases of one candidate, fitted to its matrices' own inputs.

A matrix deep in a compressed model reads x̃, not the x that its factors were made for. With its right factor kept, its
left factor works on z = right · x̃, and the best one solves a least-squares problem:

    min E‖W w - leftᵀ z‖²        leftᵀ = W E[w zᵀ] E[z zᵀ]⁻¹        w = alpha·x + (1-alpha)·x̃, the wanted input

The minimiser does not depend on weights of the outputs, so no gradient is needed. A bias is fitted with the rest,
like the row of one more component that is always 1: it restores the mean of what was cut off. The matrices are fitted
in the order in which the candidate runs them, so that each sees the inputs that it will have later. Two flows of
hidden states, the dense and the compressed one, are taken from block to block; at most one block's activations are
held. Behind the last block, if the answers to choose from are fixed, the output head gets a bias for their tokens,
see `workers.factors.answer_bias`.

Source: the layer-wise closed-form update of arXiv 2403.07378 (SVD-LLM, first version), here with the dense flow mixed
into the target.

Legend: B rows, L padded length, T real tokens, O output width, D input width, r rank in use.
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PreTrainedModel

from ranksieve.search.errors import ScoringError
from ranksieve.search.space.matrix import DENSE
from ranksieve.workers.factors.answer_bias import answer_bias_of
from ranksieve.workers.factors.linalg import square_root
from ranksieve.workers.forward.blockwise import Group, flows_of, side_by_side
from ranksieve.workers.model.switchable import SwitchableLinear, SwitchableModel, switchable_module
from ranksieve.workers.types.plan import Example

DAMPING = 1e-6

PARTS = {"left": "left_RO", "bias": "bias"}
"""Fitted parts of a matrix, and their attributes in its module."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RefitBlock:
    """Fitted tensors of one block, `done` blocks of `total`.

    The output head counts as the last block.

    `fitted["NAME:left"]`: r×O, r the rank of the matrix; `fitted["NAME:bias"]`: O, if it has one. The head has at most
    a bias, whether or not it had one before.
    """

    done: int
    total: int
    fitted: Mapping[str, torch.Tensor]


@torch.no_grad()
def refit(
    model: SwitchableModel,
    ranks: Sequence[int],
    examples: Sequence[Example],
    batch_tokens: int,
    alpha: float,
    *,
    answer_bias: bool = True,
) -> Iterator[RefitBlock]:
    """Fit left factors and biases of one candidate, block by block.

    Right factors, dense and rank-0 matrices stay.

    At last the output head's bias is fitted, if answers are fixed and the model returns the head's logits unchanged.

    The candidate's block is run once to its end and once up to each group of matrices that read the same activation;
    the dense block once. Held for all examples, on the model's device and in its dtype: the hidden
    states of both flows, and the inputs of the low-rank matrices of one dense block.

    Args:
        model: Its ranks change meanwhile; afterwards it has its own factors again and runs at `ranks`.
        ranks: The candidate.
        examples: Calibration examples.
        batch_tokens: Padded tokens per forward pass.
        alpha: Share of the dense flow in the target, 0..1. At 0 a matrix only adapts to its inputs; at 1 it also
            compensates the losses of the matrices before it.
        answer_bias: Whether to fit the output head's bias to the right answers.

    Yields:
        Each block's factors as soon as it is done, in model order; last the head's bias.

    Raises:
        ValueError: `alpha` is outside 0..1.
        ScoringError: An activation is not finite.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must be in [0, 1], got {alpha}")
    matrices = model.matrices
    compressed, dense = flows_of(model, [ranks, [DENSE] * len(matrices)], examples, batch_tokens)
    total = len(compressed.blocks) + 1
    own = _own(model, [f"{matrix.name}:{part}" for matrix in matrices for part in PARTS])
    low_rank = {matrix.name: rank for matrix, rank in zip(matrices, ranks, strict=True) if rank > 0}
    names = [
        [matrix.name for matrix in matrices if matrix.layer == index and matrix.name in low_rank]
        for index in range(len(compressed.blocks))
    ]
    try:
        for index, groups in enumerate(side_by_side([compressed], dense, names)):
            new: dict[str, torch.Tensor] = {}
            for group in groups:
                fitted = _fit(model.model, {name: low_rank[name] for name in group.names}, group, alpha)
                _install(model, fitted)
                new |= fitted
            yield RefitBlock(done=index + 1, total=total, fitted=new)
        answers = answer_bias_of(model.model, [compressed], examples) if answer_bias else {}
        yield RefitBlock(done=total, total=total, fitted=answers)
    finally:
        _install(model, own)
        model.switch(ranks)


def refit_to_file(
    model: SwitchableModel,
    ranks: Sequence[int],
    examples: Sequence[Example],
    batch_tokens: int,
    alpha: float,
    file: Path,
    *,
    answer_bias: bool = True,
) -> None:
    """Refit all blocks into one safetensors file, which appears whole or not at all.

    See `refit`.
    """
    fitted: dict[str, torch.Tensor] = {}
    for block in refit(model, ranks, examples, batch_tokens, alpha, answer_bias=answer_bias):
        fitted |= {key: tensor.cpu().contiguous() for key, tensor in block.fitted.items()}
    scratch = file.with_name(f"{file.name}.{os.getpid()}.part")
    try:
        save_file(fitted, scratch)
        scratch.replace(file)
    finally:
        scratch.unlink(missing_ok=True)


def load_fitted(file: Path | None) -> dict[str, torch.Tensor]:
    """Load a file of `refit_to_file`; empty without a file."""
    return {} if file is None else load_file(file)


@contextmanager
def using_fitted(model: SwitchableModel, fitted: Mapping[str, torch.Tensor]) -> Iterator[None]:
    """Install fitted tensors in the model until the block ends.

    Meanwhile the model runs up to their ranks.
    """
    own = _own(model, fitted)
    _install(model, fitted)
    try:
        yield
    finally:
        _install(model, own)


def least_squares(
    weight_OD: torch.Tensor, left_rO: torch.Tensor, cross_Dr: torch.Tensor, gram_rr: torch.Tensor
) -> torch.Tensor:
    """Return the left factor of least squared error, r×O, float64.

    What the tokens do not determine stays unchanged: the damping pulls towards the old factor, not towards zero, so
    that the error never rises and an exact factor stays.

    Args:
        weight_OD: The dense matrix.
        left_rO: The old left factor.
        cross_Dr: Sum of (wanted input) zᵀ over tokens, float64.
        gram_rr: Sum of z zᵀ, float64.
    """
    left_rO = left_rO.double()
    scale_r = gram_rr.diagonal().sqrt()
    scale_r = torch.where(scale_r > 0, scale_r, 1.0).reciprocal()  # components differ by orders of magnitude
    if not gram_rr.any():
        return left_rO
    root_rr = square_root(scale_r[:, None] * gram_rr * scale_r, DAMPING)
    missing_rO = cross_Dr.T @ weight_OD.double().T - gram_rr @ left_rO
    step_rO: torch.Tensor = torch.linalg.solve(
        root_rr.T, torch.linalg.solve(root_rr, scale_r[:, None] * missing_rO)
    )
    return left_rO + scale_r[:, None] * step_rO


def _own(model: SwitchableModel, keys: Iterable[str]) -> dict[str, torch.Tensor | None]:
    """Return the model's current tensors under these keys."""
    own: dict[str, torch.Tensor | None] = {}
    for key in keys:
        name, part = key.rsplit(":", 1)
        module = model.model.get_submodule(name)
        own[key] = getattr(module, PARTS[part]) if isinstance(module, SwitchableLinear) else model.answer_bias
    return own


def _install(model: SwitchableModel, tensors: Mapping[str, torch.Tensor | None]) -> None:
    for key, tensor in tensors.items():
        name, part = key.rsplit(":", 1)
        module: Any = model.model.get_submodule(name)
        if not isinstance(module, SwitchableLinear):
            model.set_answer_bias(tensor)
            continue
        value = None if tensor is None else tensor.to(module.weight.device)
        if part == "bias" and value is not None and not isinstance(value, nn.Parameter):
            value = nn.Parameter(value, requires_grad=False)
        setattr(module, PARTS[part], value)


def _fit(
    model: PreTrainedModel,
    ranks: Mapping[str, int],
    group: Group,
    alpha: float,
) -> dict[str, torch.Tensor]:
    """Fit the matrices of a group, given as name → rank."""
    modules = {name: switchable_module(model, name) for name in ranks}
    right_rD = {name: module.right_RD[: ranks[name]].float() for name, module in modules.items()}
    cross_Dr: dict[str, torch.Tensor] = {}
    gram_rr: dict[str, torch.Tensor] = {}
    for x_TD, dense_TD in group:
        x_TD = x_TD.float()
        wanted_TD = torch.lerp(x_TD, dense_TD.float(), alpha)
        for name in ranks:
            z_Tr = x_TD @ right_rD[name].T
            if modules[name].bias is not None:
                z_Tr = torch.cat([z_Tr, z_Tr.new_ones(len(z_Tr), 1)], dim=1)
            _add(cross_Dr, name, wanted_TD.T @ z_Tr)
            _add(gram_rr, name, z_Tr.T @ z_Tr)
    fitted: dict[str, torch.Tensor] = {}
    for name, module in modules.items():
        if not (cross_Dr[name].isfinite().all() and gram_rr[name].isfinite().all()):
            raise ScoringError(
                f"the input of {name} in the candidate or in the dense model is not finite; "
                "try model.dtype: float32, or keep more of the model"
            )
        old_rO, bias_O = module.left_RO[: ranks[name]], module.bias
        if bias_O is not None:  # it is part of both target and output, so the fit starts at zero
            old_rO = torch.cat([old_rO, old_rO.new_zeros(1, len(bias_O))])
        new_rO = least_squares(module.weight, old_rO, cross_Dr[name], gram_rr[name])
        fitted[f"{name}:left"] = new_rO[: ranks[name]].to(old_rO.dtype)
        if bias_O is not None:
            fitted[f"{name}:bias"] = (bias_O.double() + new_rO[-1]).to(bias_O.dtype)
    return fitted


def _add(sums: dict[str, torch.Tensor], name: str, product: torch.Tensor) -> None:
    if name in sums:
        sums[name] += product
    else:
        sums[name] = product.double()
