from itertools import pairwise
from typing import Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ranksieve.workers.factors.decomposition import GRADIENT_DAMPING, INPUT_DAMPING, Factors
from ranksieve.workers.factors.decomposition import factor as factor_narrow

Metric = Literal["weight", "output", "task"]
"""Which errors count: of the weights (no Gram), of the output (of inputs), or of the task (of gradients, too)."""

WIDE, TALL, SQUARE = (5, 9), (9, 5), (6, 6)
METRICS: tuple[Metric, ...] = ("weight", "output", "task")


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def problem(
    shape: tuple[int, int], seed: int = 0, tokens: int = 64
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A weight, an input Gram and a gradient Gram of `tokens` random rows with very different scales."""
    out_features, in_features = shape
    x_TD = randn(tokens, in_features, seed=seed + 1) * torch.logspace(0, 1, in_features, dtype=torch.float64)
    g_TO = randn(tokens, out_features, seed=seed + 2) * torch.logspace(
        -1, 0, out_features, dtype=torch.float64
    )
    return randn(*shape, seed=seed), x_TD.T @ x_TD / tokens, g_TO.T @ g_TO / tokens


def factor(
    weight_OD: torch.Tensor,
    metric: Metric,
    max_rank: int,
    gram_C: torch.Tensor | None = None,
    gram_G: torch.Tensor | None = None,
    precision: torch.dtype = torch.float64,
) -> Factors:
    """Factor a matrix whose Grams are known on both its sides: they are carried to the narrow one."""
    gram_C, gram_G = gram_C if metric != "weight" else None, gram_G if metric == "task" else None
    weight = weight_OD.double()
    if weight_OD.shape[0] <= weight_OD.shape[1]:
        forward = None if gram_C is None else weight @ gram_C.double() @ weight.T
        return factor_narrow(weight_OD, max_rank, forward, gram_G, precision)
    backward = None if gram_G is None else weight.T @ gram_G.double() @ weight
    return factor_narrow(weight_OD, max_rank, gram_C, backward, precision)


def product(factors: Factors, rank: int) -> torch.Tensor:
    return factors.left_RO[:rank].T @ factors.right_RD[:rank]


def damped(gram_NN: torch.Tensor, damping: float) -> torch.Tensor:
    return gram_NN + damping * gram_NN.diagonal().mean() * torch.eye(len(gram_NN), dtype=gram_NN.dtype)


def error(
    weight_OD: torch.Tensor,
    approximation_OD: torch.Tensor,
    gram_C: torch.Tensor | None = None,
    gram_G: torch.Tensor | None = None,
) -> float:
    """tr(Gᵀ Δ C Δᵀ): the increase of the loss in K-FAC's metric."""
    delta_OD = weight_OD - approximation_OD
    middle_OO = (delta_OD if gram_C is None else delta_OD @ gram_C) @ delta_OD.T
    return float((middle_OO if gram_G is None else middle_OO @ gram_G).trace())


def metric_of(
    metric: Metric, gram_C: torch.Tensor, gram_G: torch.Tensor
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """The Grams that the error is minimised in: the one that is inverted, of the smaller side, is damped."""
    if metric == "weight":
        return None, None
    wide = len(gram_G) <= len(gram_C)
    metric_C = gram_C if wide else damped(gram_C, INPUT_DAMPING)
    if metric == "output":
        return metric_C, None
    return metric_C, damped(gram_G, GRADIENT_DAMPING) if wide else gram_G


@pytest.mark.parametrize("shape", [WIDE, TALL, SQUARE])
def test_weight_is_the_truncated_svd(shape: tuple[int, int]) -> None:
    weight_OD = randn(*shape)
    factors = factor(weight_OD, "weight", min(shape))
    u_OK, s_K, v_KD = torch.linalg.svd(weight_OD, full_matrices=False)
    for rank in range(min(shape) + 1):
        torch.testing.assert_close(product(factors, rank), u_OK[:, :rank] * s_K[:rank] @ v_KD[:rank])
    torch.testing.assert_close(factors.energy_K, s_K**2)


def test_output_prefers_the_inputs_that_occur() -> None:
    # |w|² · E[x²] is 9·1, 1·100: the small weight counts more, as its input is ten times larger.
    weight_OD, gram_C = torch.diag(torch.tensor([3.0, 1.0])), torch.diag(torch.tensor([1.0, 100.0]))
    factors = factor(weight_OD, "output", 2, gram_C)
    torch.testing.assert_close(
        product(factors, 1), torch.diag(torch.tensor([0.0, 1.0], dtype=torch.float64)), atol=1e-6, rtol=0
    )
    torch.testing.assert_close(factors.energy_K, torch.tensor([100, 9], dtype=torch.float64))


def test_task_prefers_the_outputs_that_matter() -> None:
    weight_OD, gram_C = torch.diag(torch.tensor([3.0, 1.0])), torch.eye(2)
    factors = factor(weight_OD, "task", 2, gram_C, torch.diag(torch.tensor([1.0, 100.0])))
    torch.testing.assert_close(
        product(factors, 1), torch.diag(torch.tensor([0.0, 1.0], dtype=torch.float64)), atol=1e-6, rtol=0
    )
    # in units of the loss, with the damping of a thousandth of the mean gradient
    damping = GRADIENT_DAMPING * (1 + 100) / 2
    assert factors.energy_K.tolist() == pytest.approx([100 + damping, 9 * (1 + damping)])


@pytest.mark.parametrize("shape", [WIDE, TALL, SQUARE])
def test_output_error_is_the_optimal_tail(shape: tuple[int, int]) -> None:
    weight_OD, gram_C, _ = problem(shape)
    factors = factor(weight_OD, "output", min(shape), gram_C)
    tails_K = torch.linalg.svdvals(weight_OD @ torch.linalg.cholesky(gram_C)) ** 2
    for rank in range(min(shape) + 1):
        best = float(tails_K[rank:].sum())
        assert error(weight_OD, product(factors, rank), gram_C) == pytest.approx(
            best, rel=1e-4, abs=1e-5 * float(tails_K.sum())
        )


@pytest.mark.parametrize("shape", [WIDE, TALL, SQUARE])
def test_task_error_is_the_optimal_tail_of_the_damped_metric(shape: tuple[int, int]) -> None:
    weight_OD, gram_C, gram_G = problem(shape)
    factors = factor(weight_OD, "task", min(shape), gram_C, gram_G)
    metric_C, metric_G = metric_of("task", gram_C, gram_G)
    assert metric_C is not None
    assert metric_G is not None
    whitened_OD = torch.linalg.cholesky(metric_G).T @ weight_OD @ torch.linalg.cholesky(metric_C)
    tails_K = torch.linalg.svdvals(whitened_OD) ** 2
    torch.testing.assert_close(factors.energy_K, tails_K)
    for rank in range(min(shape) + 1):
        assert error(weight_OD, product(factors, rank), metric_C, metric_G) == pytest.approx(
            float(tails_K[rank:].sum()), rel=1e-6, abs=1e-9 * float(tails_K.sum())
        )


@pytest.mark.parametrize("shape", [WIDE, TALL, SQUARE])
@pytest.mark.parametrize("metric", ["output", "task"])
def test_no_perturbation_of_the_factors_is_better(shape: tuple[int, int], metric: Metric) -> None:
    weight_OD, gram_C, gram_G = problem(shape)
    factors = factor(weight_OD, metric, 3, gram_C, gram_G)
    grams = metric_of(metric, gram_C, gram_G)
    best = error(weight_OD, product(factors, 3), *grams)
    for seed in range(20):
        for scale in (1e-3, 1e-1):
            left_RO = factors.left_RO + scale * randn(*factors.left_RO.shape, seed=seed)
            right_RD = factors.right_RD + scale * randn(*factors.right_RD.shape, seed=seed + 100)
            assert error(weight_OD, left_RO.T @ right_RD, *grams) >= best * (1 - 1e-9)


@pytest.mark.parametrize("shape", [WIDE, TALL, SQUARE])
@pytest.mark.parametrize("metric", METRICS)
def test_full_rank_is_the_matrix(shape: tuple[int, int], metric: Metric) -> None:
    weight_OD, gram_C, gram_G = problem(shape)
    factors = factor(weight_OD, metric, min(shape), gram_C, gram_G)
    torch.testing.assert_close(product(factors, min(shape)), weight_OD)


@settings(max_examples=60)
@given(
    shape=st.tuples(st.integers(1, 7), st.integers(1, 7)),
    metric=st.sampled_from(METRICS),
    seed=st.integers(0, 1000),
    tokens=st.integers(1, 12),
)
def test_error_never_grows_with_rank(shape: tuple[int, int], metric: Metric, seed: int, tokens: int) -> None:
    weight_OD, gram_C, gram_G = problem(shape, seed, tokens)  # few tokens: Grams of low rank
    factors = factor(weight_OD, metric, min(shape), gram_C, gram_G)
    grams = metric_of(metric, gram_C, gram_G)
    errors = [error(weight_OD, product(factors, rank), *grams) for rank in range(min(shape) + 1)]
    slack = 1e-7 * max(errors[0], 1e-12)
    assert all(after <= before + slack for before, after in pairwise(errors))
    assert all(factors.energy_K[:-1] >= factors.energy_K[1:])
    assert torch.isfinite(factors.left_RO).all()
    assert torch.isfinite(factors.right_RD).all()


@settings(max_examples=60)
@given(
    shape=st.sampled_from((WIDE, TALL, SQUARE)),
    metric=st.sampled_from(METRICS),
    seed=st.integers(0, 1000),
    scales=st.tuples(*[st.sampled_from((1e-3, 0.1, 1.0, 30.0, 1e4))] * 3),
)
def test_units_of_inputs_gradients_and_weights_do_not_matter(
    shape: tuple[int, int], metric: Metric, seed: int, scales: tuple[float, float, float]
) -> None:
    weight_OD, gram_C, gram_G = problem(shape, seed)
    weight_scale, inputs_scale, gradients_scale = scales
    plain = factor(weight_OD, metric, 3, gram_C, gram_G)
    scaled = factor(weight_scale * weight_OD, metric, 3, inputs_scale * gram_C, gradients_scale * gram_G)
    torch.testing.assert_close(product(scaled, 3) / weight_scale, product(plain, 3), rtol=1e-6, atol=1e-7)
    energy_scale = weight_scale**2
    energy_scale *= inputs_scale if metric != "weight" else 1.0
    energy_scale *= gradients_scale if metric == "task" else 1.0
    torch.testing.assert_close(scaled.energy_K / energy_scale, plain.energy_K, rtol=1e-6, atol=0)


@pytest.mark.parametrize("shape", [WIDE, TALL])
@pytest.mark.parametrize("metric", METRICS)
def test_float32_arithmetic_is_near(shape: tuple[int, int], metric: Metric) -> None:
    weight_OD, *grams = problem(shape)
    exact = factor(weight_OD, metric, 4, *grams)
    rough = factor(weight_OD, metric, 4, *grams, precision=torch.float32)
    assert {rough.left_RO.dtype, rough.right_RD.dtype, rough.energy_K.dtype} == {torch.float32}
    torch.testing.assert_close(rough.energy_K.double(), exact.energy_K, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(product(rough, 4).double(), product(exact, 4), rtol=0, atol=1e-2)


@pytest.mark.parametrize("metric", METRICS)
def test_smaller_max_rank_is_a_slice(metric: Metric) -> None:
    weight_OD, gram_C, gram_G = problem(TALL)
    whole = factor(weight_OD, metric, 5, gram_C, gram_G)
    part = factor(weight_OD, metric, 2, gram_C, gram_G)
    # not to the bit: how a product is summed up may depend on its size
    torch.testing.assert_close(part.left_RO, whole.left_RO[:2], rtol=0, atol=1e-12)
    torch.testing.assert_close(part.right_RD, whole.right_RD[:2], rtol=0, atol=1e-12)
    assert len(part.energy_K) == 5
    assert part.left_RO.is_contiguous()
    assert part.right_RD.is_contiguous()


@pytest.mark.parametrize("shape", [WIDE, TALL])
@pytest.mark.parametrize("metric", METRICS)
def test_halves_of_a_component_have_one_norm(shape: tuple[int, int], metric: Metric) -> None:
    weight_OD, gram_C, gram_G = problem(shape)
    factors = factor(weight_OD, metric, 4, gram_C, gram_G)
    torch.testing.assert_close(factors.left_RO.norm(dim=1), factors.right_RD.norm(dim=1))


@pytest.mark.parametrize("metric", METRICS)
def test_zero_matrix_has_zero_factors(metric: Metric) -> None:
    _, gram_C, gram_G = problem(WIDE)
    factors = factor(torch.zeros(WIDE), metric, 5, gram_C, gram_G)
    assert not product(factors, 5).any()
    assert torch.isfinite(factors.energy_K).all()


@pytest.mark.parametrize("shape", [WIDE, TALL])
@pytest.mark.parametrize("metric", ["output", "task"])
def test_one_token_is_kept_by_one_component(shape: tuple[int, int], metric: Metric) -> None:
    weight_OD = randn(*shape)
    x_D, g_O = randn(shape[1], seed=1), randn(shape[0], seed=2)
    factors = factor(weight_OD, metric, min(shape), x_D.outer(x_D), g_O.outer(g_O))
    wanted = weight_OD @ x_D if metric == "output" else g_O @ weight_OD @ x_D
    got = product(factors, 1) @ x_D
    torch.testing.assert_close(got if metric == "output" else g_O @ got, wanted, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("reached", "fallback", "why"), [(0, "weight", "no token reached"), (1, "output", "ignores a matrix")]
)
def test_a_matrix_that_nothing_reaches_or_the_loss_ignores_is_worth_nothing(
    caplog: pytest.LogCaptureFixture, reached: int, fallback: Metric, why: str
) -> None:
    weight_OD, gram_C, gram_G = problem(WIDE)
    with caplog.at_level("INFO"):
        factors = factor(weight_OD, "task", 3, reached * gram_C, (1 - reached) * gram_G)
    torch.testing.assert_close(product(factors, 3), product(factor(weight_OD, fallback, 3, gram_C), 3))
    assert not factors.energy_K.any()
    assert why in caplog.text


@pytest.mark.parametrize("wrong", [torch.nan, torch.inf])
def test_what_is_not_finite_is_named(wrong: float) -> None:
    weight_OD, gram_C, gram_G = problem(WIDE)
    with pytest.raises(ValueError, match="forward_gram is not finite"):
        factor(weight_OD, "task", 2, gram_C * wrong, gram_G)
    with pytest.raises(ValueError, match="backward_gram is not finite"):
        factor(weight_OD, "task", 2, gram_C, gram_G * wrong)
    weight_OD[0, 0] = wrong
    with pytest.raises(ValueError, match="weights are not finite"):
        factor(weight_OD, "task", 2, gram_C, gram_G)


def test_inputs_are_left_alone() -> None:
    inputs = problem(TALL)
    copies = [tensor.clone() for tensor in inputs]
    factor(inputs[0], "task", 3, inputs[1], inputs[2])
    assert all(tensor.equal(copy) for tensor, copy in zip(inputs, copies, strict=True))
