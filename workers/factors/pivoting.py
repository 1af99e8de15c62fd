"""The cheapest way to store a matrix of rank R: R of its own rows, and how the others follow from them.

Legend: O output width, D input width, R rank, Q = O - R rows that follow.

`W = left_ROᵀ · right_RD` holds R·(O + D) numbers, of which R² are redundant: R independent rows of W span all its rows.
`y = W x` is then `z = basis_RD x` for those rows and `follow_QR z` for the others, put in the order of W's rows:
R·(O + D - R) numbers and O indices.

In low precision the rounding of z reaches the other rows multiplied by `follow_QR`: the smaller that is, the better.

Source: pivoting factorization, PIFA, arXiv 2501.19090, section 3.
"""

from dataclasses import dataclass

import torch

LARGEST_COEFFICIENT = 1.2
"""Rows are exchanged until no coefficient is larger. At 1 the exchange might not end; each one here gains a fifth."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pivoted:
    """A matrix of rank R in pivoted form, in the dtype of its factors.

    `basis_RD` are R rows of the matrix; `follow_QR` are the coefficients of the others in them. Row o of the matrix is
    row `order_O[o]` of both stacked, int32.
    """

    basis_RD: torch.Tensor
    follow_QR: torch.Tensor
    order_O: torch.Tensor


def pivot(left_RO: torch.Tensor, right_RD: torch.Tensor) -> Pivoted:
    """Finds rows that all others follow from with coefficients of at most `LARGEST_COEFFICIENT`.

    Partial pivoting finds the first rows: with `left[rows] = lower · upper` the coefficients are
    `lower[R:] · lower[:R]⁻¹`, whatever `upper` is, so that components of zero do no harm. Then rows are exchanged.

    Args:
        left_RO: R×O, components in rows; R < O.
        right_RD: R×D.

    Raises:
        ValueError: The factors do not belong together or are not finite, or no row is left to follow.
    """
    rank, out_features = left_RO.shape
    if len(right_RD) != rank or not 0 < rank < out_features:
        raise ValueError(
            f"expected factors R×O and R×D with 0 < R < O, got {tuple(left_RO.shape)} and {tuple(right_RD.shape)}; "
            "a matrix of full rank is smaller dense"
        )
    left_OR = left_RO.double().T.contiguous()
    if not left_OR.isfinite().all():
        raise ValueError("the factors are not finite")
    packed_OR, swaps_R, _ = torch.linalg.lu_factor_ex(left_OR)
    lower_OR = packed_OR.tril(-1)
    lower_OR.diagonal().fill_(1.0)
    follow_QR = torch.linalg.solve_triangular(
        lower_OR[:rank], lower_OR[rank:], upper=False, left=False, unitriangular=True
    )
    rows_O = _permutation(swaps_R, out_features)
    _exchange_(follow_QR, rows_O)
    return Pivoted(
        basis_RD=(left_OR[rows_O[:rank]] @ right_RD.double()).to(right_RD.dtype),
        follow_QR=follow_QR.to(left_RO.dtype),
        order_O=rows_O.argsort().to(torch.int32),
    )


def _permutation(swaps_R: torch.Tensor, size: int) -> torch.Tensor:
    """LAPACK's row swaps (from 1) as one permutation."""
    rows = list(range(size))
    for index, swap in enumerate(swaps_R.tolist()):
        rows[index], rows[swap - 1] = rows[swap - 1], rows[index]
    return torch.tensor(rows, device=swaps_R.device)


def _exchange_(follow_QR: torch.Tensor, rows_O: torch.Tensor) -> None:
    """Exchanges, in place, the two rows that the largest coefficient ties together, until that is small.

    Each exchange multiplies the volume of the basis by that coefficient, so it ends.

    Source: Goreinov et al., How to find a good submatrix, 2010 (maxvol).
    """
    rank = follow_QR.shape[1]
    while True:
        q, r = divmod(int(follow_QR.abs().argmax()), rank)
        coefficient = follow_QR[q, r].clone()
        if coefficient.abs() <= LARGEST_COEFFICIENT:
            return
        column_Q, row_R = follow_QR[:, r].clone(), follow_QR[q].clone()
        column_Q[q] += 1
        row_R[r] -= 1
        follow_QR.addr_(column_Q, row_R / coefficient, alpha=-1)
        rows_O[[r, rank + q]] = rows_O[[rank + q, r]]
