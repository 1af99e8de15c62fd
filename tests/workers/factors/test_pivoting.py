import pytest
import torch

from ranksieve.workers.factors.pivoting import LARGEST_COEFFICIENT, Pivoted, pivot

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")),
]


def factors(
    out_features: int, in_features: int, rank: int, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    left_RO = torch.randn(rank, out_features, generator=generator, dtype=torch.float64)
    return left_RO, torch.randn(rank, in_features, generator=generator, dtype=torch.float64)


def rebuilt(pivoted: Pivoted) -> torch.Tensor:
    """The matrix, from the definition of its pivoted form."""
    rows = torch.cat((pivoted.basis_RD, pivoted.follow_QR @ pivoted.basis_RD))
    return rows[pivoted.order_O.long()]


def test_a_matrix_of_rank_one_by_hand() -> None:
    left_RO, right_RD = torch.tensor([[1.0, -4.0, 2.0]]), torch.tensor([[3.0, 5.0]])
    pivoted = pivot(left_RO, right_RD)
    # the second row is the largest, the others are -1/4 and -1/2 of it
    assert pivoted.basis_RD.tolist() == [[-12.0, -20.0]]
    assert pivoted.order_O[1] == 0
    assert pivoted.follow_QR[pivoted.order_O[[0, 2]] - 1].tolist() == [[-0.25], [-0.5]]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("out_features", "in_features", "rank"),
    [(12, 7, 5), (7, 12, 5), (9, 9, 8), (9, 4, 8), (2, 3, 1), (40, 60, 1), (60, 40, 30), (200, 50, 40)],
)
def test_the_matrix_is_exactly_what_its_rows_give(
    out_features: int, in_features: int, rank: int, device: str
) -> None:
    left_RO, right_RD = (half.to(device) for half in factors(out_features, in_features, rank))
    pivoted = pivot(left_RO, right_RD)
    torch.testing.assert_close(rebuilt(pivoted), left_RO.T @ right_RD, rtol=1e-10, atol=1e-10)
    assert pivoted.basis_RD.shape == (rank, in_features)
    assert pivoted.follow_QR.shape == (out_features - rank, rank)
    assert pivoted.order_O.dtype is torch.int32
    assert sorted(pivoted.order_O.tolist()) == list(range(out_features))
    assert pivoted.follow_QR.abs().max() <= LARGEST_COEFFICIENT
    assert {tensor.device.type for tensor in (pivoted.basis_RD, pivoted.follow_QR, pivoted.order_O)} == {
        device
    }


def test_rows_are_exchanged_where_partial_pivoting_lets_coefficients_grow() -> None:
    # Wilkinson's matrix: every step of the elimination doubles the last row
    size = 12
    left_OR = torch.eye(size, dtype=torch.float64) - torch.ones(size, size, dtype=torch.float64).tril(-1)
    left_OR = torch.cat((left_OR, -torch.ones(1, size, dtype=torch.float64)))
    packed_OR, _ = torch.linalg.lu_factor(left_OR)
    lower_OR = packed_OR.tril(-1) + torch.eye(size + 1, size, dtype=torch.float64)
    unbounded = lower_OR[size:] @ torch.linalg.inv(lower_OR[:size])
    assert unbounded.abs().max() > 1000

    _, right_RD = factors(size + 1, 8, size)
    pivoted = pivot(left_OR.T, right_RD)
    assert pivoted.follow_QR.abs().max() <= LARGEST_COEFFICIENT
    torch.testing.assert_close(rebuilt(pivoted), left_OR @ right_RD)


@pytest.mark.parametrize("dead", [[0], [3], [1, 2, 4], [0, 1, 2, 3, 4]])
def test_components_of_zero_do_no_harm(dead: list[int]) -> None:
    left_RO, right_RD = factors(12, 7, 5)
    left_RO[dead], right_RD[dead] = 0.0, 0.0
    pivoted = pivot(left_RO, right_RD)
    torch.testing.assert_close(rebuilt(pivoted), left_RO.T @ right_RD)
    assert pivoted.follow_QR.abs().max() <= LARGEST_COEFFICIENT


def test_equal_and_missing_rows_do_no_harm() -> None:
    left_RO, right_RD = factors(12, 7, 5)
    left_RO[:, 3] = left_RO[:, 8]
    left_RO[:, 5] = 0.0
    torch.testing.assert_close(rebuilt(pivot(left_RO, right_RD)), left_RO.T @ right_RD)


def test_components_of_unequal_size_keep_their_small_ones() -> None:
    left_RO, right_RD = factors(30, 20, 10)
    scale_R1 = 10.0 ** -torch.arange(10, dtype=torch.float64)[:, None]
    pivoted = pivot(left_RO * scale_R1, right_RD)
    torch.testing.assert_close(rebuilt(pivoted), (left_RO * scale_R1).T @ right_RD, rtol=1e-10, atol=1e-12)


def test_low_precision_is_only_the_result() -> None:
    left_RO, right_RD = (half.bfloat16() for half in factors(64, 48, 20))
    pivoted = pivot(left_RO, right_RD)
    assert (pivoted.basis_RD.dtype, pivoted.follow_QR.dtype) == (torch.bfloat16, torch.bfloat16)
    exact = left_RO.double().T @ right_RD.double()
    stored = Pivoted(
        basis_RD=pivoted.basis_RD.double(), follow_QR=pivoted.follow_QR.double(), order_O=pivoted.order_O
    )
    # rounding is 2⁻⁹ at most for each of the two, and the coefficients spread it a little
    assert (rebuilt(stored) - exact).norm() < 0.01 * exact.norm()


def test_inputs_are_left_alone() -> None:
    left_RO, right_RD = factors(12, 7, 5)
    before = left_RO.clone(), right_RD.clone()
    pivot(left_RO, right_RD)
    assert left_RO.equal(before[0])
    assert right_RD.equal(before[1])


@pytest.mark.parametrize(("out_features", "rank", "rows"), [(5, 5, 5), (4, 6, 6), (8, 3, 2), (8, 0, 0)])
def test_impossible_ranks_are_refused(out_features: int, rank: int, rows: int) -> None:
    left_RO, right_RD = torch.ones(rank, out_features), torch.ones(rows, 7)
    with pytest.raises(ValueError, match="expected factors R×O and R×D with 0 < R < O"):
        pivot(left_RO, right_RD)


@pytest.mark.parametrize("wrong", [torch.nan, torch.inf])
def test_factors_that_are_not_finite_are_refused(wrong: float) -> None:
    left_RO, right_RD = factors(12, 7, 5)
    left_RO[0, 0] = wrong
    with pytest.raises(ValueError, match="the factors are not finite"):
        pivot(left_RO, right_RD)
