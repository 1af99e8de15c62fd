"""Nested low-rank factors of one weight matrix, in closed form.

Legend: O output width, D input width, K = min(O, D), R rank kept in the factors.

`W ≈ left_ROᵀ · right_RD`: row i of `right_RD` and row i of `left_RO` are component i, components sorted
by importance, so that every rank is a slice. The left factor is stored transposed, `left_RO`, because then a
slice of either factor is contiguous.

They are the singular vectors of `A = G½ᵀ W C½`, with C = E[x xᵀ] the input Gram and G = E[g gᵀ] the gradient Gram:
K-FAC's estimate of the loss increase, arXiv 1503.05671. With G = I it is the error of the output (LLM-Sieve, arXiv
2505.18350; SVD-LLM, arXiv 2403.07378, theorem 1), with C = I, too, that of the weights (LASER, arXiv 2312.13558).

Only the narrow side is decomposed, and C and G enter as the K×K Grams that `workers.factors.calibration` gathers there:

    O ≤ D    forward = W C Wᵀ, backward = G           A Aᵀ = Lᵀ (W C Wᵀ) L with L Lᵀ = G
    O > D    forward = C,      backward = Wᵀ G W      Aᵀ A = Lᵀ (Wᵀ G W) L with L Lᵀ = C

The eigenvectors U of either give both factors: `left = L⁻ᵀ U`, `right = Uᵀ Lᵀ W`, and the mirror image.
"""

import logging
from dataclasses import dataclass

import torch

from ranksieve.workers.factors.linalg import descending, eigh, square_root, unwhitened

logger = logging.getLogger(__name__)

INPUT_DAMPING = 1e-6
GRADIENT_DAMPING = 1e-3


@dataclass(frozen=True, kw_only=True, slots=True)
class Factors:
    """Nested factors of one matrix.

    `left_RO`, `right_RD`: component norms balanced. `energy_K`: value of each component, descending, in units of the
    task loss.
    """

    left_RO: torch.Tensor
    right_RD: torch.Tensor
    energy_K: torch.Tensor


def factor(
    weight_OD: torch.Tensor,
    max_rank: int,
    forward_gram: torch.Tensor | None,
    backward_gram: torch.Tensor | None,
    precision: torch.dtype = torch.float64,
) -> Factors:
    """Factor one matrix, so that any rank up to `max_rank` is a slice.

    A matrix that no token reaches is factored by its weights, one that the loss ignores by its output; both are worth
    nothing.

    Args:
        weight_OD: The dense matrix.
        max_rank: Components to keep, at most K.
        forward_gram: K×K, of the forward values; None is that of C = I.
        backward_gram: K×K, of the gradients; None is that of G = I.
        precision: Dtype of the arithmetic and of the result.

    Raises:
        ValueError: An input is not finite.
    """
    weight_OD = weight_OD.to(precision)
    if not weight_OD.isfinite().all():
        raise ValueError("its weights are not finite; fetch or convert the model again")
    forward_KK = _finite(forward_gram, "forward_gram", precision)
    backward_KK = _finite(backward_gram, "backward_gram", precision)
    worthless = False
    if forward_KK is not None and not forward_KK.diagonal().any():
        logger.info("no token reached a matrix of shape %s: factored by its weights", tuple(weight_OD.shape))
        forward_KK, backward_KK, worthless = None, None, True
    elif backward_KK is not None and not backward_KK.diagonal().any():
        logger.info(
            "the task loss ignores a matrix of shape %s: factored by its output", tuple(weight_OD.shape)
        )
        backward_KK, worthless = None, True
    seen = _seen_at_output if weight_OD.shape[0] <= weight_OD.shape[1] else _seen_at_input
    left_OR, right_RD, energy_K = seen(weight_OD, forward_KK, backward_KK, max_rank)
    left_RO, right_RD = _balance(left_OR.T, right_RD)
    return Factors(
        left_RO=left_RO.contiguous(),
        right_RD=right_RD.contiguous(),
        energy_K=torch.zeros_like(energy_K) if worthless else energy_K,
    )


def _seen_at_output(
    weight_OD: torch.Tensor, output_gram_OO: torch.Tensor | None, grad_gram_OO: torch.Tensor | None, rank: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return left O×R, right R×D and the energies."""
    if output_gram_OO is None:
        output_gram_OO = weight_OD @ weight_OD.T
    if grad_gram_OO is None:
        vectors_OR, energy_O = descending(*eigh(output_gram_OO), rank)
        return vectors_OR, vectors_OR.T @ weight_OD, energy_O
    root_OO = square_root(grad_gram_OO, GRADIENT_DAMPING)
    vectors_OR, energy_O = descending(*eigh(root_OO.T @ output_gram_OO @ root_OO), rank)
    return unwhitened(root_OO, vectors_OR), (root_OO @ vectors_OR).T @ weight_OD, energy_O


def _seen_at_input(
    weight_OD: torch.Tensor,
    input_gram_DD: torch.Tensor | None,
    passed_gram_DD: torch.Tensor | None,
    rank: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return left O×R, right R×D and the energies."""
    if passed_gram_DD is None:
        passed_gram_DD = weight_OD.T @ weight_OD
    if input_gram_DD is None:
        vectors_DR, energy_D = descending(*eigh(passed_gram_DD), rank)
        return weight_OD @ vectors_DR, vectors_DR.T, energy_D
    root_DD = square_root(input_gram_DD, INPUT_DAMPING)
    vectors_DR, energy_D = descending(*eigh(root_DD.T @ passed_gram_DD @ root_DD), rank)
    return weight_OD @ (root_DD @ vectors_DR), unwhitened(root_DD, vectors_DR).T, energy_D


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


def _finite(gram_KK: torch.Tensor | None, name: str, precision: torch.dtype) -> torch.Tensor | None:
    if gram_KK is None:
        return None
    if not torch.isfinite(gram_KK).all():
        raise ValueError(f"{name} is not finite; the model's activations or gradients overflowed")
    return gram_KK.to(precision)
