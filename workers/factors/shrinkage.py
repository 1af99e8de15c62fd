"""What few answers have not shown of the gradients' Gram is filled in: its shrinkage towards what knows no direction.

A Gram of a few hundred answers spans a fraction of its directions. In the others the loss would seem to react to
nothing, and a `task` projection would cut there for free. Of n answers with normal gradients the mix of the Gram S and
of the isotropic Gram of the same trace that has the least expected error is known in closed form: oracle approximating
shrinkage, arXiv 0907.4698, equation 23,

    (1 - λ) S + λ tr(S)/K · I        λ = ((1 - 2/K) tr(S²) + tr²(S)) / ((n + 1 - 2/K) (tr(S²) - tr²(S)/K)), at most 1

Legend: K width of the Gram, O output width, D input width of the matrix.
"""

import torch


def shrinkage(gram_KK: torch.Tensor, answers: int) -> float:
    """λ, 0 to 1: the share of the isotropic Gram.

    Args:
        gram_KK: The Gram S of the gradients, not all zero.
        answers: How many independent ones it was made of, n.
    """
    width, square, squares = len(gram_KK), float(gram_KK.trace()) ** 2, float(gram_KK.double().square().sum())
    spread = squares - square / width
    if spread <= 0:  # it is isotropic
        return 1.0
    return min(1.0, ((1 - 2 / width) * squares + square) / ((answers + 1 - 2 / width) * spread))


def shrunk(weight_OD: torch.Tensor, backward_KK: torch.Tensor, answers: int) -> torch.Tensor:
    """A gradients' Gram with what its answers have not shown filled in; one of zeros stays as it is.

    Args:
        weight_OD: The matrix.
        backward_KK: As `factors.calibration` gathers it: of what reaches the matrix's output, or, of a matrix that is
            taller than wide, of what it passes back, Wᵀg, where isotropic gradients show as WᵀW.
        answers: How many independent ones it was made of.
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
