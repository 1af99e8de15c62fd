import pytest
import torch

from ranksieve.workers.factors.shrinkage import shrinkage, shrunk

K = 12


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gram_of(answers: int, scales_K: torch.Tensor, seed: int) -> torch.Tensor:
    """Of so many normal gradients whose second moment is diagonal."""
    grad_NK = randn(answers, len(scales_K), seed=seed) * scales_K.sqrt()
    return grad_NK.T @ grad_NK / answers


def test_the_share_by_hand() -> None:
    # tr(S²) = 10, tr²(S) = 16, K = 2: ((1 - 1)·10 + 16) / ((9 + 1 - 1)·(10 - 8))
    assert shrinkage(torch.diag(torch.tensor([3.0, 1.0])), 9) == pytest.approx(16 / 18)


@pytest.mark.parametrize("gram_KK", [torch.eye(3), torch.ones(1, 1)])
def test_what_knows_no_direction_stays_as_it_is(gram_KK: torch.Tensor) -> None:
    assert shrinkage(gram_KK, 5) == 1
    torch.testing.assert_close(shrunk(torch.ones(gram_KK.shape), gram_KK, 5), gram_KK)


def test_one_answer_says_nothing_and_very_many_say_all() -> None:
    gram_KK = gram_of(200, torch.logspace(0, 1, K, dtype=torch.float64), seed=0)
    shares = [shrinkage(gram_KK, answers) for answers in (1, 10, 100, 1_000_000)]
    assert shares[0] == 1
    assert shares == sorted(shares, reverse=True)
    assert shares[-1] < 1e-4


def test_tiny_gradients_in_float32_are_no_less_told_apart() -> None:
    gram_KK = gram_of(200, torch.logspace(0, 1, K, dtype=torch.float64), seed=0)
    assert shrinkage((gram_KK * 1e-24).float(), 100) == pytest.approx(shrinkage(gram_KK, 100), rel=1e-4)


@pytest.mark.parametrize("decades", [0, 1, 2, 4])
@pytest.mark.parametrize("answers", [3, K, 10 * K])
def test_it_is_nearer_to_the_truth_on_average(answers: int, decades: int) -> None:
    truth_K = torch.logspace(0, decades, K, dtype=torch.float64)
    truth_KK, weight_KK = torch.diag(truth_K), randn(K, K)
    before = after = 0.0
    for seed in range(100):
        gram_KK = gram_of(answers, truth_K, seed)
        before += float((gram_KK - truth_KK).square().sum())
        after += float((shrunk(weight_KK, gram_KK, answers) - truth_KK).square().sum())
    assert after < before


def test_on_the_tall_side_it_is_what_isotropic_gradients_pass_back() -> None:
    weight_OD = randn(9, 5)
    grad_NO = randn(4, 9, seed=1)
    passed_DD = weight_OD.T @ (grad_NO.T @ grad_NO / 4) @ weight_OD

    mixed_DD = shrunk(weight_OD, passed_DD, 4)

    share = shrinkage(passed_DD, 4)
    isotropic_DD = weight_OD.T @ weight_OD
    assert 0 < share < 1
    assert torch.linalg.matrix_rank(passed_DD) == 4
    assert float(mixed_DD.trace()) == pytest.approx(float(passed_DD.trace()))
    filled_DD = (mixed_DD - (1 - share) * passed_DD) / isotropic_DD
    torch.testing.assert_close(filled_DD, filled_DD[0, 0].expand(5, 5))


@pytest.mark.parametrize("shape", [(4, 6), (6, 4)])
def test_zeros_stay_and_what_is_not_finite_shows(shape: tuple[int, int]) -> None:
    weight_OD, nothing_KK = randn(*shape), torch.zeros(4, 4, dtype=torch.float64)
    assert shrunk(weight_OD, nothing_KK, 3).equal(nothing_KK)
    gram_KK = torch.eye(4, dtype=torch.float64)
    assert shrunk(torch.zeros(6, 4), gram_KK, 3).equal(gram_KK)
    assert not torch.isfinite(shrunk(weight_OD, gram_KK * torch.nan, 3)).any()
