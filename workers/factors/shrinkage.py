"""Shrinkage of the gradients' Gram of few answers towards an isotropic one.

A Gram of a few hundred answers spans a fraction of its directions. In the others the loss would seem constant, and a
`task` projection would cut there for free. For n answers with normal gradients, the mix of the Gram S and the isotropic
Gram of equal trace with the least expected error is known in closed form: oracle approximating shrinkage, arXiv
0907.4698, equation 23,

    (1 - λ) S + λ tr(S)/K · I        λ = ((1 - 2/K) tr(S²) + tr²(S)) / ((n + 1 - 2/K) (tr(S²) - tr²(S)/K)), at most 1

Legend: K width of the Gram, O output width, D input width of the matrix.
"""

import torch


def shrinkage(gram_KK: torch.Tensor, answers: int) -> float:
    """Return λ, 0 to 1: the share of the isotropic Gram.

    Args:
        gram_KK: The Gram S of the gradients, not all zero.
        answers: Number of independent answers behind it, n.
    """
    width, square, squares = len(gram_KK), float(gram_KK.trace()) ** 2, float(gram_KK.double().square().sum())
    spread = squares - square / width
    if spread <= 0:  # it is isotropic
        return 1.0
    return min(1.0, ((1 - 2 / width) * squares + square) / ((answers + 1 - 2 / width) * spread))


def shrunk(weight_OD: torch.Tensor, backward_KK: torch.Tensor, answers: int) -> torch.Tensor:
    """Shrink a gradients' Gram towards an isotropic one; zeros stay zeros.

    Args:
        weight_OD: The matrix.
        backward_KK: Gram of `factors.calibration`: of the gradients at the matrix's output, or, for a matrix taller
            than wide, of those that it passes back, Wᵀg, where isotropic gradients have the Gram WᵀW.
        answers: Number of independent answers behind it.
    """
    out_features, in_features = weight_OD.shape
    if out_features <= in_features:
        isotropic_KK = torch.eye(out_features, dtype=backward_KK.dtype, device=backward_KK.device)
    else:
        weight = weight_OD.to(backward_KK.dtype)
        isotropic_KK = weight.T @ weight
    if not backward_KK.diagonal().any() or not isotropic_KK.diagonal().any():
        return backward_KK
    share = shrinkage(backward_KK, answers)
    scale = backward_KK.trace() / isotropic_KK.trace()
    return (1 - share) * backward_KK + share * scale * isotropic_KK
