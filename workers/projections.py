"""The nested low-rank factors of one weight matrix, in closed form. Tensors in, tensors out.

Legend: O output width, D input width, K = min(O, D), R rank kept in the factors.

`W ≈ left_ROᵀ · right_RD`: row i of `right_RD` and row i of `left_RO` are component i, components sorted
by importance, so that every rank is a slice. The left factor is stored transposed, `left_RO`, because then a
slice of either factor is contiguous.

Every method is an orthogonal projection seen through a pair of whitenings, `A = Gᵀ½ W C½`, with C the input Gram
and G the gradient Gram (identity where the method ignores one):

    weight   C = I  G = I      LASER, arXiv 2312.13558
    input    the leading eigenvectors of C, SliceGPT, arXiv 2401.15024
    output   C      G = I      LLM-Sieve, arXiv 2505.18350; SVD-LLM, arXiv 2403.07378, theorem 1
    task     C      G          two-sided, K-FAC's estimate of the loss increase, arXiv 1503.05671

Only the smaller side is decomposed, and the wider side's square root is never needed: with O ≤ D, A Aᵀ = Lᵀ W C Wᵀ L
gives U and `right = Uᵀ Lᵀ W` holds without a square root of C; with O > D the mirror image holds.
"""

import logging
from dataclasses import dataclass
from typing import Literal

import torch

logger = logging.getLogger(__name__)

Method = Literal["task", "output", "input", "weight"]

INPUT_DAMPING = 1e-6
GRADIENT_DAMPING = 1e-3
JITTER_STEPS = 5
JITTER_GROWTH = 10.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Factors:
    """Nested factors of one matrix.

    `left_RO`, `right_RD`: float64, component norms balanced. `energy_K`: what each component is worth, descending:
    units of the task loss for `task`, a share of the matrix's own objective for the other methods.
    """

    left_RO: torch.Tensor
    right_RD: torch.Tensor
    energy_K: torch.Tensor


def factor(
    weight_OD: torch.Tensor,
    method: Method,
    max_rank: int,
    input_gram_DD: torch.Tensor | None = None,
    grad_gram_OO: torch.Tensor | None = None,
) -> Factors:
    """Factors one matrix; any rank up to `max_rank` is then a slice.

    Args:
        weight_OD: The dense matrix.
        method: Objective, see the module's docstring.
        max_rank: Components to keep, at most min(O, D).
        input_gram_DD: E[x xᵀ] over task tokens; not needed by `weight`.
        grad_gram_OO: E[g gᵀ] over task tokens; needed by `task`.

    Raises:
        ValueError: A Gram that the method needs is missing, or something is not finite.
    """
    weight_OD = weight_OD.double()
    gram_C = _required(input_gram_DD, "input_gram_DD", method) if method != "weight" else None
    gram_G = _required(grad_gram_OO, "grad_gram_OO", method) if method == "task" else None
    if gram_C is not None and not gram_C.any():
        logger.warning(
            "no token reached a matrix of shape %s: factored by its weights", tuple(weight_OD.shape)
        )
        return _worthless(factor(weight_OD, "weight", max_rank))
    if gram_G is not None and not gram_G.any():
        logger.warning(
            "the task loss ignores a matrix of shape %s: factored by its output", tuple(weight_OD.shape)
        )
        return _worthless(factor(weight_OD, "output", max_rank, gram_C))
    if method == "input":
        assert gram_C is not None
        left_OK, right_KD, energy_K = _input_projection(weight_OD, gram_C)
    else:
        left_OK, right_KD, energy_K = _whitened_projection(weight_OD, gram_C, gram_G)
    if method != "task":
        energy_K = energy_K / energy_K.sum().clamp_min(torch.finfo(torch.float64).tiny)
    left_RO, right_RD = _balance(left_OK.T[:max_rank], right_KD[:max_rank])
    return Factors(left_RO=left_RO.contiguous(), right_RD=right_RD.contiguous(), energy_K=energy_K)


def square_root(gram_NN: torch.Tensor, damping: float) -> torch.Tensor:
    """A factor L with L Lᵀ = gram + damping·mean(diag)·I.

    Rank-deficient Grams are the normal case: the damping makes them definite; where rounding still breaks the
    Cholesky factorisation the damping grows, and at last the eigenvalues are clamped relative to the largest.

    Args:
        gram_NN: Symmetric positive semi-definite, not all zero.
        damping: Relative to the mean of the diagonal.
    """
    mean = gram_NN.diagonal().mean()
    eye = torch.eye(len(gram_NN), dtype=gram_NN.dtype, device=gram_NN.device)
    for step in range(JITTER_STEPS):
        root: torch.Tensor
        root, info = torch.linalg.cholesky_ex(gram_NN + damping * JITTER_GROWTH**step * mean * eye)
        if info == 0:
            return root
    values, vectors = torch.linalg.eigh(gram_NN)
    logger.warning(
        "Cholesky failed %d times; eigenvalues clamped at %g of the largest", JITTER_STEPS, damping
    )
    scale_N: torch.Tensor = values.clamp_min(damping * values[-1]).sqrt()
    clamped: torch.Tensor = vectors * scale_N
    return clamped


def _whitened_projection(
    weight_OD: torch.Tensor, gram_C: torch.Tensor | None, gram_G: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    out_features, in_features = weight_OD.shape
    if out_features <= in_features:
        root_O = None if gram_G is None else square_root(gram_G, GRADIENT_DAMPING)
        half_OD = weight_OD if root_O is None else root_O.T @ weight_OD
        vectors_OK, energy_K = _descending_eigh(half_OD @ (half_OD if gram_C is None else half_OD @ gram_C).T)
        left_OK = vectors_OK if root_O is None else torch.linalg.solve(root_O.T, vectors_OK)
        return left_OK, vectors_OK.T @ half_OD, energy_K
    root_D = None if gram_C is None else square_root(gram_C, INPUT_DAMPING)
    half_OD = weight_OD if root_D is None else weight_OD @ root_D
    vectors_DK, energy_K = _descending_eigh(half_OD.T @ (half_OD if gram_G is None else gram_G @ half_OD))
    right_DK = vectors_DK if root_D is None else torch.linalg.solve(root_D.T, vectors_DK)
    return half_OD @ vectors_DK, right_DK.T, energy_K


def _input_projection(
    weight_OD: torch.Tensor, gram_C: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    count = min(weight_OD.shape)
    vectors_DD, values_D = _descending_eigh(gram_C)
    vectors_DK = vectors_DD[:, :count]
    return weight_OD @ vectors_DK, vectors_DK.T, values_D[:count]


def _descending_eigh(gram_NN: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    values_N, vectors_NN = torch.linalg.eigh((gram_NN + gram_NN.T) / 2)
    return vectors_NN.flip(1), values_N.flip(0).clamp_min(0)


def _balance(left_RO: torch.Tensor, right_RD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Gives both halves of every component the same norm: the products stay, low precision suffers least."""
    left_R1, right_R1 = left_RO.norm(dim=1, keepdim=True), right_RD.norm(dim=1, keepdim=True)
    tiny = torch.finfo(torch.float64).tiny
    scale_R1 = (right_R1.clamp_min(tiny) / left_R1.clamp_min(tiny)).sqrt()
    alive = (left_R1 > 0) & (right_R1 > 0)
    zero = torch.zeros((), dtype=left_RO.dtype, device=left_RO.device)
    return torch.where(alive, left_RO * scale_R1, zero), torch.where(alive, right_RD / scale_R1, zero)


def _required(gram_NN: torch.Tensor | None, name: str, method: str) -> torch.Tensor:
    if gram_NN is None:
        raise ValueError(f"method {method} needs {name}")
    if not torch.isfinite(gram_NN).all():
        raise ValueError(f"{name} is not finite; the model's activations or gradients overflowed")
    return gram_NN.double()


def _worthless(factors: Factors) -> Factors:
    return Factors(
        left_RO=factors.left_RO, right_RD=factors.right_RD, energy_K=torch.zeros_like(factors.energy_K)
    )
