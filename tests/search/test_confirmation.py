import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.confirmation import fallback, hidden_points, mean_interval, paired_drop, perplexity_rise
from search.errors import InputError, ScoringError


def test_equal_scores_lose_nothing_for_certain() -> None:
    scores = [0.0, 1.0, 1.0, 0.0]
    interval = paired_drop(scores, scores, confidence=0.8, seed=0)
    assert (interval.estimate, interval.low, interval.high, interval.upper) == (0, 0, 0, 0)
    assert interval.within(0.0)


@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_what_no_example_shows_is_lost_no_more_often_than_the_confidence_allows(confidence: float) -> None:
    points = hidden_points(100, confidence)
    assert (1 - points / 100) ** 100 == pytest.approx(1 - confidence)
    assert hidden_points(100, 0.95) == pytest.approx(3, abs=0.1)  # the rule of three


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
    foretold = few.of_as_many(9)
    assert foretold.estimate == many.estimate == pytest.approx(few.estimate)
    for bound in ("low", "high", "upper"):
        width = getattr(many, bound) - many.estimate
        assert getattr(foretold, bound) - few.estimate == pytest.approx(width, rel=0.2)
    assert few.of_as_many(1) == few
    assert few.of_as_many(0.25).upper - few.estimate == pytest.approx(2 * (few.upper - few.estimate))


def test_a_rise_that_is_no_number_is_told() -> None:
    with pytest.raises(ScoringError, match=r"perplexity overflows: 800.0 nats per token more"):
        perplexity_rise([1.0, 1.0], [801.0, 801.0], confidence=0.8, seed=0)


def test_perplexity_rise_by_hand() -> None:
    interval = perplexity_rise([1.0, 2.0], [1.1, 2.1], confidence=0.8, seed=0)
    assert interval.estimate == pytest.approx(100 * (math.exp(0.1) - 1))
    assert interval.upper == pytest.approx(interval.estimate)


def test_wilson_by_hand() -> None:
    # 8 of 10: the published interval is 0.490 to 0.943
    low, high = mean_interval([1] * 8 + [0] * 2)
    assert (low, high) == (pytest.approx(0.4902, abs=1e-4), pytest.approx(0.9433, abs=1e-4))
    assert mean_interval([1.0] * 10) == (pytest.approx(0.7225, abs=1e-4), pytest.approx(1.0))
    assert mean_interval([0.0] * 10) == (pytest.approx(0.0), pytest.approx(0.2775, abs=1e-4))


def test_graded_scores_are_bootstrapped() -> None:
    low, high = mean_interval(np.linspace(0, 1, 101), seed=3)
    error = np.linspace(0, 1, 101).std() / math.sqrt(101)
    assert low == pytest.approx(0.5 - 1.96 * error, abs=0.01)
    assert high == pytest.approx(0.5 + 1.96 * error, abs=0.01)


class Held:
    """Candidates that hold up to a confidence, at any, at none or cannot be told, and at which each was tested."""

    def __init__(self, *limits: float | bool | None) -> None:
        self._limits = limits
        self.tested: dict[int, list[float]] = {}

    def __call__(self, index: int, confidence: float) -> bool | None:
        confidence = round(confidence, 9)
        if confidence not in self.tested.setdefault(index, []):
            self.tested[index].append(confidence)
        return _holds(self._limits[index], confidence)


def _holds(limit: float | None, confidence: float) -> bool | None:
    return None if limit is None else confidence <= limit


def test_with_all_risk_on_the_first_a_sequence_ends_at_its_first_failure() -> None:
    held = Held(True, True, False, True)
    assert fallback([1.0, 0.0, 0.0, 0.0], 0.2, held) == (0, 1)
    assert held.tested == {0: [0.8], 1: [0.8], 2: [0.8]}
    assert fallback([1.0, 0.0], 0.2, Held(False, True)) == ()
    assert fallback([1.0, 0.0], 0.2, Held(True, True)) == (0, 1)
    assert fallback([], 0.2, Held()) == ()


def test_risk_of_its_own_lets_a_later_one_be_tested_after_a_failure() -> None:
    held = Held(0.94, False, True, 0.84, False)  # the fourth's own risk is for a test at 0.86
    assert fallback([0.3, 0.0, 0.0, 0.7, 0.0], 0.2, held) == (0,)
    assert held.tested == {0: [0.94], 1: [0.94], 3: [0.86, 0.8], 4: [0.8]}  # the third is left out
    assert fallback([0.3, 0.0, 0.0, 0.7, 0.0], 0.2, Held(True, False, True, True, False)) == (3,)


def test_who_holds_passes_on_what_it_was_tested_at() -> None:
    held = Held(True, True, 0.8)
    assert fallback([0.3, 0.0, 0.7], 0.2, held) == (0, 1, 2)
    assert held.tested == {0: [0.94], 1: [0.94], 2: [0.86, 0.8]}


def test_those_before_are_not_tested_where_the_end_is_the_same() -> None:
    held = Held(True, True, True, False)
    assert fallback([0.3, 0.0, 0.7, 0.0], 0.2, held) == (2,)
    assert held.tested == {2: [0.86, 0.8], 3: [0.86, 0.8]}


def test_who_cannot_be_told_is_passed_over() -> None:
    held = Held(None, 0.9, None, 0.8)
    assert fallback([0.5, 0.0, 0.5, 0.0], 0.2, held) == (1, 3)
    assert held.tested == {0: [0.9], 1: [0.9], 2: [0.9, 0.8], 3: [0.9, 0.8]}
    assert fallback([0.5, 0.0, 0.5, 0.0], 0.2, Held(None, True, None, True)) == (3,)


@given(
    st.lists(st.tuples(st.integers(0, 3), st.floats(0, 1.2) | st.none()), max_size=12),
    st.floats(0.01, 0.5),
)
def test_the_end_is_that_of_a_test_of_all_from_the_largest_down(
    candidates: list[tuple[int, float | None]], risk: float
) -> None:
    """Each candidate: parts of the risk that are its own, and the confidence up to which it holds."""
    whole = sum(parts for parts, _ in candidates) or 1
    risks, limits = [parts / whole for parts, _ in candidates], [limit for _, limit in candidates]
    last, at_hand = (), 0.0
    for index, (own, limit) in enumerate(zip(risks, limits, strict=True)):
        at_hand = min(at_hand + own * risk, risk)
        if at_hand > 0 and limit is not None:
            last, at_hand = ((index,), at_hand) if 1 - at_hand <= limit else (last, 0.0)
    held = fallback(risks, risk, lambda index, confidence: _holds(limits[index], confidence))
    assert held[-1:] == last


@pytest.mark.parametrize("risks", [[1.0, 0.0, 0.0, 0.0], [0.3, 0.0, 0.7, 0.0], [0.25] * 4])
def test_a_sequence_keeps_the_error_of_one_test(risks: list[float]) -> None:
    """All candidates truly lose 4 points: how often is any of four passed at a limit of just under 4?"""
    rng = np.random.default_rng(11)

    def passes_any() -> bool:
        dense = (rng.random(300) < 0.8).astype(float)
        lost = rng.random((4, 300)) < 0.05
        candidates = [np.where((dense == 1) & lost_N, 0.0, dense) for lost_N in lost]

        def holds(index: int, confidence: float) -> bool:
            drop = paired_drop(dense, candidates[index], confidence=confidence, seed=index, resamples=300)
            return drop.within(3.999)

        return bool(fallback(risks, 0.2, holds))

    assert 0 < np.mean([passes_any() for _ in range(200)]) < 0.2 + 0.06


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
