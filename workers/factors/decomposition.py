"""Nested low-rank factors of one weight matrix, in closed form.

Legend: O output width, D input width, K = min(O, D), R rank kept in the factors.

`W ≈ left_ROᵀ · right_RD`: row i of `right_RD` and row i of `left_RO` are component i, components sorted
by importance, so that every rank is a slice. The left factor is stored transposed, `left_RO`, because then a
slice of either factor is contiguous.

Every method is an orthogonal projection seen through a pair of whitenings, `A = G½ᵀ W C½`, with C = E[x xᵀ] the input
Gram and G = E[g gᵀ] the gradient Gram (identity where the method ignores one):

    weight   C = I  G = I      LASER, arXiv 2312.13558
    input    the leading eigenvectors of C, SliceGPT, arXiv 2401.15024
    output   C      G = I      LLM-Sieve, arXiv 2505.18350; SVD-LLM, arXiv 2403.07378, theorem 1
    task     C      G          two-sided, K-FAC's estimate of the loss increase, arXiv 1503.05671

Only the narrow side is decomposed, and C and G enter as the K×K Grams that `workers.factors.calibration` gathers there:

    O ≤ D    forward = W C Wᵀ, backward = G           A Aᵀ = Lᵀ (W C Wᵀ) L with L Lᵀ = G
    O > D    forward = C,      backward = Wᵀ G W      Aᵀ A = Lᵀ (Wᵀ G W) L with L Lᵀ = C

The eigenvectors U of either give both factors: `left = L⁻ᵀ U`, `right = Uᵀ Lᵀ W`, and the mirror image.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from ranksieve.workers.factors.linalg import descending, eigh, square_root, unwhitened

logger = logging.getLogger(__name__)

AT_ONCE = ("cuda",)
"""Devices that decompose squares of one size at once."""

Method = Literal["task", "output", "input", "weight"]

INPUT_DAMPING = 1e-6
GRADIENT_DAMPING = 1e-3


@dataclass(frozen=True, kw_only=True, slots=True)
class Factors:
    """Nested factors of one matrix.

    `left_RO`, `right_RD`: component norms balanced. `energy_K`: value of each component, descending:
    in units of the task loss for `task`, as a share of the matrix's own objective for the other methods.
    """

    left_RO: torch.Tensor
    right_RD: torch.Tensor
    energy_K: torch.Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class Whitened:
    """Matrix on the way to its factors.

    `square_NN`: symmetric matrix to decompose. `count`: number of leading eigenvectors to keep. `finish`: makes the
    factors from these, N×count, and from all eigenvalues, descending.
    """

    square_NN: torch.Tensor
    count: int
    finish: Callable[[torch.Tensor, torch.Tensor], Factors]


def factor(
    weight_OD: torch.Tensor,
    method: Method,
    max_rank: int,
    forward_gram: torch.Tensor | None = None,
    backward_gram: torch.Tensor | None = None,
    precision: torch.dtype = torch.float64,
) -> Factors:
    """Factor one matrix, so that any rank up to `max_rank` is a slice.

    Joins `whitened` and `decomposed`.
    """
    return decomposed([whitened(weight_OD, method, max_rank, forward_gram, backward_gram, precision)])[0]


def whitened(
    weight_OD: torch.Tensor,
    method: Method,
    max_rank: int,
    forward_gram: torch.Tensor | None = None,
    backward_gram: torch.Tensor | None = None,
    precision: torch.dtype = torch.float64,
) -> Whitened:
    """Return the symmetric square to decompose for the factors of one matrix.

    Args:
        weight_OD: The dense matrix.
        method: Objective, see the module's docstring.
        max_rank: Components to keep, at most K.
        forward_gram: K×K, of the forward values; for `input` always D×D, E[x xᵀ]. `weight` needs none.
        backward_gram: K×K, of the gradients; needed by `task`.
        precision: Dtype of the arithmetic and of the result.

    Raises:
        ValueError: A Gram that the method needs is missing, or an input is not finite.
    """
    weight_OD = weight_OD.to(precision)
    if not weight_OD.isfinite().all():
        raise ValueError("its weights are not finite; fetch or convert the model again")
    forward_NN = _required(forward_gram, "forward_gram", method, precision) if method != "weight" else None
    backward_KK = _required(backward_gram, "backward_gram", method, precision) if method == "task" else None
    worthless = False
    if forward_NN is not None and not forward_NN.diagonal().any():
        logger.info("no token reached a matrix of shape %s: factored by its weights", tuple(weight_OD.shape))
        method, forward_NN, backward_KK, worthless = "weight", None, None, True
    elif backward_KK is not None and not backward_KK.diagonal().any():
        logger.info(
            "the task loss ignores a matrix of shape %s: factored by its output", tuple(weight_OD.shape)
        )
        method, backward_KK, worthless = "output", None, True
    if method == "input":
        assert forward_NN is not None
        square_NN, halves = _input_projection(weight_OD, forward_NN)
    elif weight_OD.shape[0] <= weight_OD.shape[1]:
        square_NN, halves = _seen_at_output(weight_OD, forward_NN, backward_KK)
    else:
        square_NN, halves = _seen_at_input(weight_OD, forward_NN, backward_KK)

    def finish(vectors_NR: torch.Tensor, values_N: torch.Tensor) -> Factors:
        left_OR, right_RD = halves(vectors_NR)
        energy_K = values_N[: min(weight_OD.shape)]
        if worthless:
            energy_K = torch.zeros_like(energy_K)
        elif method != "task":
            energy_K = energy_K / energy_K.sum().clamp_min(torch.finfo(precision).tiny)
        left_RO, right_RD = _balance(left_OR.T, right_RD)
        return Factors(left_RO=left_RO.contiguous(), right_RD=right_RD.contiguous(), energy_K=energy_K)

    return Whitened(square_NN=square_NN, count=max_rank, finish=finish)


def decomposed(matrices: Sequence[Whitened]) -> list[Factors]:
    """Decompose several matrices; squares of one size on one GPU at once.

    On a processor that would be no faster, and the last bits would depend on where in memory a square begins.
    """
    groups: dict[tuple[object, ...], list[int]] = {}
    for index, matrix in enumerate(matrices):
        square_NN = matrix.square_NN
        alone = () if square_NN.device.type in AT_ONCE else (index,)
        groups.setdefault((len(square_NN), square_NN.device, *alone), []).append(index)
    factors: dict[int, Factors] = {}
    for alike in groups.values():
        values_BN, vectors_BNN = eigh(torch.stack([matrices[i].square_NN for i in alike]))
        for index, values_N, vectors_NN in zip(alike, values_BN, vectors_BNN, strict=True):
            matrix = matrices[index]
            factors[index] = matrix.finish(*descending(values_N, vectors_NN, matrix.count))
    return [factors[index] for index in range(len(matrices))]


_Halves = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
"""Leading eigenvectors, N×R → left O×R and right R×D."""


def _seen_at_output(
    weight_OD: torch.Tensor, output_gram_OO: torch.Tensor | None, grad_gram_OO: torch.Tensor | None
) -> tuple[torch.Tensor, _Halves]:
    if output_gram_OO is None:
        output_gram_OO = weight_OD @ weight_OD.T
    if grad_gram_OO is None:
        return output_gram_OO, lambda vectors_OR: (vectors_OR, vectors_OR.T @ weight_OD)
    root_OO = square_root(grad_gram_OO, GRADIENT_DAMPING)
    return root_OO.T @ output_gram_OO @ root_OO, lambda vectors_OR: (
        unwhitened(root_OO, vectors_OR),
        (root_OO @ vectors_OR).T @ weight_OD,
    )


def _seen_at_input(
    weight_OD: torch.Tensor, input_gram_DD: torch.Tensor | None, passed_gram_DD: torch.Tensor | None
) -> tuple[torch.Tensor, _Halves]:
    if passed_gram_DD is None:
        passed_gram_DD = weight_OD.T @ weight_OD
    if input_gram_DD is None:
        return passed_gram_DD, lambda vectors_DR: (weight_OD @ vectors_DR, vectors_DR.T)
    root_DD = square_root(input_gram_DD, INPUT_DAMPING)
    return root_DD.T @ passed_gram_DD @ root_DD, lambda vectors_DR: (
        weight_OD @ (root_DD @ vectors_DR),
        unwhitened(root_DD, vectors_DR).T,
    )


def _input_projection(weight_OD: torch.Tensor, gram_DD: torch.Tensor) -> tuple[torch.Tensor, _Halves]:
    return gram_DD, lambda vectors_DR: (weight_OD @ vectors_DR, vectors_DR.T)


def _balance(left_RO: torch.Tensor, right_RD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Give both halves of every component the same norm.

    The products stay the same, and low precision loses least.
    """
    left_R1, right_R1 = left_RO.norm(dim=1, keepdim=True), right_RD.norm(dim=1, keepdim=True)
    tiny = torch.finfo(left_RO.dtype).tiny
    scale_R1 = (right_R1.clamp_min(tiny) / left_R1.clamp_min(tiny)).sqrt()
    alive = (left_R1 > 0) & (right_R1 > 0)
    zero = torch.zeros((), dtype=left_RO.dtype, device=left_RO.device)
    return torch.where(alive, left_RO * scale_R1, zero), torch.where(alive, right_RD / scale_R1, zero)


def _required(gram_NN: torch.Tensor | None, name: str, method: str, precision: torch.dtype) -> torch.Tensor:
    if gram_NN is None:
        raise ValueError(f"method {method} needs {name}")
    if not torch.isfinite(gram_NN).all():
        raise ValueError(f"{name} is not finite; the model's activations or gradients overflowed")
    return gram_NN.to(precision)
