import math
from functools import cache, partial
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from search.confirmation import (
    FIRST_LOOK,
    MOST_CONFIDENCE,
    RISK_DRAWS,
    fallback,
    fewest_examples,
    mean_interval,
    of_two_looks,
    paired_drop,
    perplexity_rise,
    risk_of_drop,
    risk_of_rise,
)
from search.errors import InputError, ScoringError
from search.finalists import risks


def test_equal_scores_lose_nothing_for_certain() -> None:
    scores = [0.0, 1.0, 1.0, 0.0]
    interval = paired_drop(scores, scores, confidence=0.8, seed=0)
    assert (interval.estimate, interval.low, interval.high, interval.upper) == (0, 0, 0, 0)
    assert interval.within(0.0)


def _binomial(lost: int, examples: int, share: float) -> float:
    """How often so few of the examples are lost, or fewer, where each is with this probability."""
    return sum(
        math.comb(examples, count) * share**count * (1 - share) ** (examples - count)
        for count in range(lost + 1)
    )


@pytest.mark.parametrize(("lost", "limit"), [(0, 1.0), (0, 3.0), (2, 1.0), (2, 4.0), (7, 3.0), (7, 6.0)])
def test_where_no_example_gains_the_risk_is_that_of_a_binomial_test(lost: int, limit: float) -> None:
    dense = np.ones(200)
    candidate = np.concatenate([np.zeros(lost), np.ones(200 - lost)])
    expected = _binomial(lost, 200, limit / 100)
    assert risk_of_drop(dense, candidate, limit, seed=0) == pytest.approx(expected, rel=0.05, abs=1e-3)


@pytest.mark.parametrize(("limit", "confidence"), [(1.0, 0.8), (2.0, 0.95), (50.0, 0.5)])
def test_fewest_examples_that_can_promise_anything(limit: float, confidence: float) -> None:
    enough = fewest_examples(limit, confidence)
    assert enough is not None
    for examples, passes in ((enough - 1, False), (enough, True)):
        assert (_binomial(0, examples, limit / 100) <= 1 - confidence + 1e-9) is passes
    assert fewest_examples(0.0, 0.8) is None
    assert fewest_examples(100.0, 0.8) == 1


def test_risk_falls_as_the_limit_rises_and_is_never_nothing() -> None:
    dense, candidate = [1.0] * 100, [1.0] * 95 + [0.0] * 5
    risks = [risk_of_drop(dense, candidate, limit, seed=0) for limit in (-5.0, 0.0, 5.0, 9.0, 20.0, 60.0)]
    assert risks == sorted(risks, reverse=True)
    assert risks[0] == 1
    assert 0 < risks[-1] < 1e-4


def test_of_many_examples_the_risk_is_that_of_a_normal_test() -> None:
    """Graded scores, some lost and some gained."""
    rng = np.random.default_rng(5)
    dense, candidate = rng.random(4000), rng.random(4000)
    drops = 100 * (dense - candidate)
    for quantile in (0.02, 0.2, 0.6):
        error = drops.std() / math.sqrt(len(drops))
        limit = drops.mean() - NormalDist().inv_cdf(quantile) * error
        risk = risk_of_drop(dense, candidate, limit, seed=0, draws=3000)
        assert risk == pytest.approx(quantile, rel=0.2, abs=0.007)


@pytest.mark.parametrize("risk", [0.2, 0.05, 0.01])
@pytest.mark.parametrize("gained", [0.0, 0.01])
def test_who_loses_more_than_the_limit_is_let_through_no_more_often_than_the_risk(
    risk: float, gained: float
) -> None:
    """What a bootstrap of few answers that differ does not keep: a little over a point lost."""
    rng, rounds, examples = np.random.default_rng(1), 2000, 800
    drawn = rng.multinomial(examples, [gained + 0.0101, gained, 1 - 2 * gained - 0.0101], size=rounds)
    worse: dict[tuple[int, int], float] = {}
    for lost, won, _ in drawn.tolist():
        if (lost, won) not in worse:
            dense = np.concatenate([np.ones(lost), np.zeros(won), np.ones(examples - lost - won)])
            candidate = np.concatenate([np.zeros(lost), np.ones(won), np.ones(examples - lost - won)])
            worse[lost, won] = risk_of_drop(dense, candidate, 1.0, seed=0, draws=20_000)
    passed = sum(worse[lost, won] <= risk for lost, won, _ in drawn.tolist()) / rounds
    assert 0 < passed <= risk + 3 * math.sqrt(risk / rounds)


def test_graded_scores_are_let_through_no_more_often_than_the_risk() -> None:
    """Few that lose much, as answers that are written do: 5 % lose 40 to 100 points, in the mean 3.5."""
    rng, rounds, examples = np.random.default_rng(4), 400, 60
    passed = 0
    for round_ in range(rounds):
        lost = np.where(rng.random(examples) < 0.05, rng.uniform(0.4, 1.0, examples), 0.0)
        passed += risk_of_drop(np.ones(examples), 1 - lost, 3.499, seed=round_, draws=1000) <= 0.2
    assert 0 < passed / rounds <= 0.2 + 3 * math.sqrt(0.2 / rounds)


def test_many_graded_scores_are_rounded_up() -> None:
    dense, candidate = np.ones(3), np.array([1.0, 0.99995, 0.5])  # nothing, half a hundredth, fifty points
    at = partial(risk_of_drop, dense, seed=0, draws=2000)
    assert at(candidate, 20.0) == at([1.0, 0.9999, 0.5], 20.0)


def test_the_most_confidence_can_be_held_by_every_finalist_that_has_a_part_of_the_risk() -> None:
    small, none = risks(3, [0.5, 0.3, 0.25, 0.22, 0.2], [0.19, 0.18]), risks(1, [], [0.9, 0.6, 0.5, 0.4])
    parts = [part for part in (*small, *none) if part > 0]
    least = 1 / (RISK_DRAWS + 1)
    assert min(parts) * (1 - MOST_CONFIDENCE) > 4 * least
    drops = np.zeros(5000)
    assert risk_of_drop(drops, drops, 5.0, seed=0) == least
    assert risk_of_rise(drops, drops, np.ones(5000), 5.0, seed=0) == least


def test_risk_of_a_rise_of_perplexity_is_that_of_its_bootstrap() -> None:
    rng = np.random.default_rng(2)
    dense = rng.random(300)
    candidate, tokens = dense + rng.normal(0.01, 0.1, 300), rng.integers(1, 30, 300)
    bound = perplexity_rise(dense, candidate, tokens, confidence=0.9, seed=0).upper
    assert risk_of_rise(dense, candidate, tokens, bound, seed=0) == pytest.approx(0.1, abs=0.02)
    assert risk_of_rise(dense, dense, tokens, 0.0, seed=0, draws=99) == 0.01


def test_records_of_many_tokens_and_of_few_that_rise_alike_leave_no_doubt() -> None:
    """Perplexity is a ratio: a resample of more long records has more nats, and more tokens."""
    tokens = np.where(np.arange(512) % 2, 20.0, 400.0)
    dense = 3.0 * tokens
    rise = perplexity_rise(dense, dense + 0.02 * tokens, tokens, confidence=0.8, seed=0)
    assert (rise.low, rise.high, rise.upper) == pytest.approx([100 * math.expm1(0.02)] * 3)
    assert rise.estimate == pytest.approx(100 * math.expm1(0.02))
    assert risk_of_rise(dense, dense + 0.02 * tokens, tokens, 2.1, seed=0, draws=999) == 0.001


def test_a_rise_that_lies_in_short_records_is_let_through_no_more_often_than_at_the_risk() -> None:
    """About a nat is lost in each, whatever its length: who draws shorter ones sees more of it."""
    rng, rounds = np.random.default_rng(5), 300
    limit = 100 * math.expm1(1 / (80 * math.exp(0.5)))  # the true rise: a nat of so many tokens in the mean
    passed = inside = 0
    for round_ in range(rounds):
        tokens = np.ceil(80 * rng.lognormal(0.0, 1.0, 300))
        measured = np.zeros(300), 1 + rng.normal(0.0, 0.3, 300), tokens
        passed += risk_of_rise(*measured, limit, seed=round_, draws=400) <= 0.2
        interval = perplexity_rise(*measured, confidence=0.8, seed=round_, resamples=400)
        inside += interval.low <= limit <= interval.high
    assert 0.1 < passed / rounds <= 0.2 + 3 * math.sqrt(0.2 * 0.8 / rounds)
    assert inside / rounds == pytest.approx(0.95, abs=0.05)


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
        perplexity_rise([1.0, 1.0], [801.0, 801.0], [1, 1], confidence=0.8, seed=0)
    # the mean is a number, the ends of its interval are not
    with pytest.raises(ScoringError, match=r"perplexity overflows: 650.0 nats per token more"):
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
    low, high = mean_interval(np.linspace(0, 1, 101), seed=3)
    error = np.linspace(0, 1, 101).std() / math.sqrt(101)
    assert low == pytest.approx(0.5 - 1.96 * error, abs=0.01)
    assert high == pytest.approx(0.5 + 1.96 * error, abs=0.01)


class Risks:
    """The least risks at which candidates hold, and who was asked."""

    def __init__(self, *least: float | None) -> None:
        self._least = least
        self.asked: set[int] = set()

    def __call__(self, index: int, _: float) -> float | None:
        self.asked.add(index)
        return self._least[index]


ALWAYS, NEVER = 0.0, 1.0


def test_with_all_risk_on_the_first_a_sequence_ends_at_its_first_failure() -> None:
    least = Risks(ALWAYS, 0.2, 0.21, ALWAYS)
    assert fallback([1.0, 0.0, 0.0, 0.0], 0.2, least) == (0, 1)
    assert least.asked == {0, 1, 2}
    assert fallback([1.0, 0.0], 0.2, Risks(NEVER, ALWAYS)) == ()
    assert fallback([1.0, 0.0], 0.2, Risks(ALWAYS, ALWAYS)) == (0, 1)
    assert fallback([], 0.2, Risks()) == ()


def test_risk_of_its_own_lets_a_later_one_be_tested_after_a_failure() -> None:
    least = Risks(0.05, NEVER, ALWAYS, 0.15, NEVER)  # the fourth's own risk is 0.14
    assert fallback([0.3, 0.0, 0.0, 0.7, 0.0], 0.2, least) == (0,)
    assert least.asked == {0, 1, 3, 4}  # the third is left out
    assert fallback([0.3, 0.0, 0.0, 0.7, 0.0], 0.2, Risks(0.05, NEVER, ALWAYS, 0.13, NEVER)) == (3,)


def test_who_holds_passes_on_what_it_was_tested_at() -> None:
    assert fallback([0.3, 0.0, 0.7], 0.2, Risks(0.05, 0.05, 0.19)) == (0, 1, 2)
    assert fallback([0.3, 0.0, 0.7], 0.2, Risks(0.05, 0.07, 0.19)) == (0,)


def test_those_before_are_not_tested_where_the_end_is_the_same() -> None:
    least = Risks(ALWAYS, ALWAYS, ALWAYS, NEVER)
    assert fallback([0.3, 0.0, 0.7, 0.0], 0.2, least) == (2,)
    assert least.asked == {2, 3}


def test_who_cannot_be_told_is_passed_over() -> None:
    assert fallback([0.5, 0.0, 0.5, 0.0], 0.2, Risks(None, 0.09, None, 0.19)) == (1, 3)
    assert fallback([0.5, 0.0, 0.5, 0.0], 0.2, Risks(None, ALWAYS, None, 0.05)) == (3,)


@given(
    st.lists(st.tuples(st.integers(0, 3), st.floats(0, 1) | st.none()), max_size=12),
    st.floats(0.01, 0.5),
)
def test_the_end_is_that_of_a_test_of_all_from_the_largest_down(
    candidates: list[tuple[int, float | None]], risk: float
) -> None:
    """Each candidate: parts of the risk that are its own, and the least risk at which it holds."""
    whole = sum(parts for parts, _ in candidates) or 1
    risks, least = [parts / whole for parts, _ in candidates], [needed for _, needed in candidates]
    passed, at_hand = [], 0.0
    for index, (own, needed) in enumerate(zip(risks, least, strict=True)):
        at_hand = min(at_hand + own * risk, risk)
        if at_hand > 0 and needed is not None:
            if needed <= at_hand:
                passed.append(index)
            else:
                at_hand = 0.0
    held = fallback(risks, risk, lambda index, _: least[index])
    assert held[-1:] == tuple(passed[-1:])
    assert set(held) <= set(passed)


@given(
    st.lists(st.tuples(st.integers(0, 3), st.floats(0, 1), st.floats(0, 1)), max_size=12),
    st.floats(0.01, 0.5),
)
def test_the_end_is_the_same_where_some_of_the_examples_tell(
    candidates: list[tuple[int, float, float]], risk: float
) -> None:
    """Each candidate: parts of the risk that are its own, and its p-values by some of the examples, and by all."""
    parts = sum(parts for parts, _, _ in candidates) or 1
    risks = [own / parts for own, _, _ in candidates]
    least = [of_two_looks(some, whole) for _, some, whole in candidates]

    def by_looks(index: int, at_hand: float) -> float:
        early = of_two_looks(candidates[index][1])
        return early if early <= at_hand else least[index]

    assert fallback(risks, risk, by_looks) == fallback(risks, risk, lambda index, _: least[index])


def test_a_look_at_some_of_the_examples_has_a_part_of_the_risk() -> None:
    assert of_two_looks(0.001) == pytest.approx(0.001 / FIRST_LOOK) == of_two_looks(0.001, 0.9)
    assert of_two_looks(0.9) == 1.0
    assert of_two_looks(0.9, 0.1) == pytest.approx(0.1 / (1 - FIRST_LOOK))


@pytest.mark.parametrize("first", [0.02, 0.5])
def test_two_looks_let_through_no_more_often_than_the_risk(
    first: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By p-values of the normal test: 4,000 times as much is lost as is promised, looked at after half and all."""
    monkeypatch.setattr("search.confirmation.FIRST_LOOK", first)
    rng = np.random.default_rng(5)
    half, other = rng.standard_normal((2, 4000))
    pairs = zip(*map(_normal_risks, (half, (half + other) / math.sqrt(2))), strict=True)
    passed = np.mean([of_two_looks(some, whole) <= 0.2 for some, whole in pairs])
    assert 0.1 < passed <= 0.2 + 3 * math.sqrt(0.2 * 0.8 / 4000)


def _normal_risks(scores: NDArray[np.float64]) -> list[float]:
    return [math.erfc(score / math.sqrt(2)) / 2 for score in scores.tolist()]


@pytest.mark.parametrize("looks", [1, 2])
@pytest.mark.parametrize("risks", [[1.0, 0.0, 0.0, 0.0], [0.3, 0.0, 0.7, 0.0], [0.25] * 4])
def test_a_sequence_keeps_the_error_of_one_test(risks: list[float], looks: int) -> None:
    """All candidates truly lose 4 points: how often is any of four passed at a limit of just under 4?"""
    rng = np.random.default_rng(11)

    def passes_any() -> bool:
        dense = (rng.random(300) < 0.8).astype(float)
        lost = rng.random((4, 300)) < 0.05
        candidates = [np.where((dense == 1) & lost_N, 0.0, dense) for lost_N in lost]

        @cache
        def of(index: int, examples: int) -> float:
            return risk_of_drop(dense[:examples], candidates[index][:examples], 3.999, seed=index, draws=500)

        def least_risk(index: int, risk: float) -> float:
            early = of_two_looks(of(index, 150)) if looks == 2 else 1.0
            if early <= risk:
                return early
            return of_two_looks(of(index, 150), of(index, 300)) if looks == 2 else of(index, 300)

        return bool(fallback(risks, 0.2, least_risk))

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


@pytest.mark.parametrize(("dense", "candidate"), [([1.0], [1.0, 0.0]), ([], []), ([1.0], [math.nan])])
def test_no_risk_is_told_of_scores_that_do_not_pair(dense, candidate) -> None:
    with pytest.raises(InputError):
        risk_of_drop(dense, candidate, 1.0, seed=0)
    with pytest.raises(InputError):
        risk_of_rise(dense, candidate, [1] * len(dense), 1.0, seed=0)


@pytest.mark.parametrize("tokens", [[1.0], [1.0, 0.0], [1.0, math.nan]])
def test_no_rise_is_told_of_records_without_tokens(tokens) -> None:
    with pytest.raises(InputError, match="tokens"):
        perplexity_rise([1.0, 1.0], [1.0, 1.0], tokens, confidence=0.8, seed=0)


def test_no_risk_is_told_of_scores_that_have_no_upper_end() -> None:
    with pytest.raises(InputError, match=r"must lie in \[0, 1\]"):
        risk_of_drop([1.0, 7.0], [1.0, 1.0], 1.0, seed=0)
