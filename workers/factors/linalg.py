"""Roots and eigenvectors of Grams that may be singular.

Legend: N width of a Gram, R some of its eigenvectors.
"""

import logging

import torch

logger = logging.getLogger(__name__)

JITTER_STEPS = 10
JITTER_GROWTH = 10.0


def square_root(gram_NN: torch.Tensor, damping: float) -> torch.Tensor:
    """Return the lower triangular L with L Lᵀ = gram + damping·mean(diag)·I.

    Rank-deficient Grams are the normal case; the damping makes them definite. If rounding still breaks the Cholesky
    factorisation, the damping grows.

    Args:
        gram_NN: Symmetric positive semi-definite, not all zero.
        damping: Relative to the mean of the diagonal.

    Raises:
        ValueError: No damping helps: the Gram is not one.
    """
    mean = gram_NN.diagonal().mean()
    for step in range(JITTER_STEPS):
        damped_NN = gram_NN.clone()
        damped_NN.diagonal().add_(damping * JITTER_GROWTH**step * mean)
        root: torch.Tensor
        root, info = torch.linalg.cholesky_ex(damped_NN)
        if info == 0:
            return root
    raise ValueError("its Gram has negative eigenvalues; try model.dtype: float32")


def eigh(square_NN: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the ascending eigenvalues and the eigenvectors of symmetric matrices.

    Like `torch.linalg.eigh`. GPU libraries fail on some matrices of low rank, more often in single precision; LAPACK in
    double precision does not.
    """
    try:
        values_N, vectors_NN = torch.linalg.eigh(square_NN)
    except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]
        if square_NN.device.type == "cpu" and square_NN.dtype == torch.float64:
            raise
        logger.warning("decomposed in float64 on the processor after a failure: %s", error)
        values_N, vectors_NN = torch.linalg.eigh(square_NN.cpu().double())
    return values_N.to(square_NN), vectors_NN.to(square_NN)


def unwhitened(root_NN: torch.Tensor, vectors_NR: torch.Tensor) -> torch.Tensor:
    """Solve for L⁻ᵀ U."""
    solved: torch.Tensor = torch.linalg.solve_triangular(root_NN.T, vectors_NR, upper=True)
    return solved


def descending(
    values_N: torch.Tensor, vectors_NN: torch.Tensor, count: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Reverse an ascending decomposition; keep the first eigenvectors, N×count."""
    return vectors_NN.flip(1)[:, :count], values_N.flip(0).clamp_min(0)
