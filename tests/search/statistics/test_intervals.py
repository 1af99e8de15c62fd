import math

import numpy as np
import pytest

from ranksieve.search.errors import InputError, ScoringError
from ranksieve.search.statistics.intervals import DropInterval, mean_interval, paired_drop, perplexity_rise
from ranksieve.search.statistics.samples import resampled_means


def test_equal_scores_lose_nothing_for_certain() -> None:
    scores = [0.0, 1.0, 1.0, 0.0]
    interval = paired_drop(scores, scores, confidence=0.8, seed=0)
    assert (interval.estimate, interval.low, interval.high, interval.upper) == (0, 0, 0, 0)
    assert interval.within(0.0)


def test_estimate_is_in_percentage_points() -> None:
    interval = paired_drop([1, 1, 1, 0], [1, 0, 1, 0], confidence=0.8, seed=0)
    assert interval.estimate == 25.0
    assert interval.low <= 25.0 <= interval.upper <= interval.high
    assert interval == paired_drop([1, 1, 1, 0], [1, 0, 1, 0], confidence=0.8, seed=0)


def test_the_bootstrap_matches_the_normal_interval_on_many_examples() -> None:
    rng = np.random.default_rng(0)
    dense = (rng.random(5000) < 0.8).astype(float)
    flipped = rng.random(5000) < 0.05
    candidate = np.where(flipped, 1 - dense, dense)
    interval = paired_drop(dense, candidate, confidence=0.8, seed=1)
    error = 100 * (dense - candidate).std() / math.sqrt(5000)
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * error, rel=0.06)
    assert interval.upper - interval.estimate == pytest.approx(0.8416 * error, rel=0.12)


def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    rng = np.random.default_rng(7)
    truth, rounds, inside, below = 4.0, 300, 0, 0
    for round_ in range(rounds):
        dense = (rng.random(300) < 0.8).astype(float)
        candidate = np.where((dense == 1) & (rng.random(300) < 0.05), 0.0, dense)  # loses 5 % of 80 %
        interval = paired_drop(dense, candidate, confidence=0.8, seed=round_, resamples=500)
        inside += interval.low <= truth <= interval.high
        below += truth <= interval.upper
    assert inside / rounds == pytest.approx(0.95, abs=0.035)
    assert below / rounds == pytest.approx(0.80, abs=0.07)


def test_many_examples_are_resampled_in_chunks() -> None:
    scores = np.tile([1.0, 0.0], 50_000)
    interval = paired_drop(scores, np.zeros(100_000), confidence=0.9, seed=0, resamples=100)
    assert interval.upper == pytest.approx(50.0, abs=1.0)


def test_a_few_examples_foretell_the_bounds_of_as_many_more_like_them() -> None:
    rng = np.random.default_rng(3)
    dense = (rng.random(200) < 0.8).astype(float)
    candidate = np.where(rng.random(200) < 0.1, 1 - dense, dense)
    few = paired_drop(dense, candidate, confidence=0.8, seed=0)
    many = paired_drop(np.tile(dense, 9), np.tile(candidate, 9), confidence=0.8, seed=0)
    expected = few.with_examples(9)
    assert expected.estimate == many.estimate == pytest.approx(few.estimate)
    for bound in ("low", "high", "upper"):
        width = getattr(many, bound) - many.estimate
        assert getattr(expected, bound) - few.estimate == pytest.approx(width, rel=0.2)
    assert few.with_examples(1) == few
    assert few.with_examples(0.25).upper - few.estimate == pytest.approx(2 * (few.upper - few.estimate))


def test_a_rise_that_is_no_number_is_told() -> None:
    with pytest.raises(ScoringError, match=r"perplexity overflows: the loss rises by 800.0 nats per token"):
        perplexity_rise([1.0, 1.0], [801.0, 801.0], [1, 1], confidence=0.8, seed=0)
    # the mean is a number, the ends of its interval are not
    with pytest.raises(ScoringError, match=r"perplexity overflows: the loss rises by 650.0 nats per token"):
        perplexity_rise([0.0] * 4, [0.0, 0.0, 1300.0, 1300.0], [1] * 4, confidence=0.8, seed=0)


def test_perplexity_rise_by_hand() -> None:
    interval = perplexity_rise([1.0, 2.0], [1.1, 2.1], [1, 1], confidence=0.8, seed=0)
    assert interval.estimate == pytest.approx(100 * (math.exp(0.1) - 1))
    rise = perplexity_rise([1.0, 2.0], [1.6, 2.2], [2, 6], confidence=0.8, seed=0)  # 0.8 nats of 8 tokens
    assert rise.estimate == pytest.approx(100 * (math.exp(0.1) - 1))
    assert interval.upper == pytest.approx(interval.estimate)


def test_wilson_by_hand() -> None:
    # 8 of 10: the published interval is 0.490 to 0.943
    low, high = mean_interval([1] * 8 + [0] * 2)
    assert (low, high) == (pytest.approx(0.4902, abs=1e-4), pytest.approx(0.9433, abs=1e-4))
    assert mean_interval([1.0] * 10) == (pytest.approx(0.7225, abs=1e-4), pytest.approx(1.0))
    assert mean_interval([0.0] * 10) == (pytest.approx(0.0), pytest.approx(0.2775, abs=1e-4))


def test_graded_scores_are_bootstrapped() -> None:
    low, high = mean_interval(np.linspace(0, 1, 101))
    error = np.linspace(0, 1, 101).std() / math.sqrt(101)
    assert low == pytest.approx(0.5 - 1.96 * error, abs=0.01)
    assert high == pytest.approx(0.5 + 1.96 * error, abs=0.01)


@pytest.mark.parametrize(
    ("dense", "candidate", "confidence", "message"),
    [
        ([1.0], [1.0, 0.0], 0.8, "need one per dense score, 1, got 2"),
        ([], [], 0.8, "at least one score"),
        ([1.0], [math.nan], 0.8, "must be finite"),
        ([1.0], [1.5], 0.8, r"must lie in \[0, 1\]"),
        ([1.0], [1.0], 0.3, r"confidence: must be in \[0.5, 1\), got 0.3"),
    ],
)
def test_scores_that_do_not_pair_are_refused(dense, candidate, confidence: float, message: str) -> None:
    with pytest.raises(InputError, match=message):
        paired_drop(dense, candidate, confidence=confidence, seed=0)


@pytest.mark.parametrize("tokens", [[1.0], [1.0, 0.0], [1.0, math.nan]])
def test_no_rise_is_told_of_records_without_tokens(tokens) -> None:
    with pytest.raises(InputError, match="tokens"):
        perplexity_rise([1.0, 1.0], [1.0, 1.0], tokens, confidence=0.8, seed=0)


def test_a_resample_of_a_ratio_is_over_what_is_in_it() -> None:
    values = np.array([1.0, 10.0, 4.0])
    assert resampled_means(values, 0, 50, weights_N=values) == pytest.approx(np.ones(50))


def test_one_more_that_has_lost_everything_raises_the_upper_bound_alone() -> None:
    interval = DropInterval(estimate=0.0, low=-1.0, high=2.0, upper=1.0, confidence=0.8)
    assert interval.with_one_lost(99) == DropInterval(
        estimate=0.0, low=-1.0, high=2.0, upper=2.0, confidence=0.8
    )
