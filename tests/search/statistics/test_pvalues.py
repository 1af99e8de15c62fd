import math
from functools import partial
from statistics import NormalDist

import numpy as np
import pytest

from ranksieve.search.errors import InputError
from ranksieve.search.evolution.finalists import RUNGS, risks
from ranksieve.search.statistics.intervals import perplexity_rise
from ranksieve.search.statistics.pvalues import (
    MOST_CONFIDENCE,
    RISK_DRAWS,
    fewest_examples,
    risk_of_drop,
    risk_of_rise,
)


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


@pytest.mark.parametrize("limit", [5e-324, 1e-310])
def test_no_number_of_examples_promises_a_limit_that_is_next_to_nothing(limit: float) -> None:
    assert fewest_examples(limit, 0.8) is None


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
    parts = [part for part in risks(RUNGS, RUNGS - 1) if part > 0]
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


@pytest.mark.parametrize(("dense", "candidate"), [([1.0], [1.0, 0.0]), ([], []), ([1.0], [math.nan])])
def test_no_risk_is_told_of_scores_that_do_not_pair(dense, candidate) -> None:
    with pytest.raises(InputError):
        risk_of_drop(dense, candidate, 1.0, seed=0)
    with pytest.raises(InputError):
        risk_of_rise(dense, candidate, [1] * len(dense), 1.0, seed=0)


def test_no_risk_is_told_of_scores_that_have_no_upper_end() -> None:
    with pytest.raises(InputError, match=r"must lie in \[0, 1\]"):
        risk_of_drop([1.0, 7.0], [1.0, 1.0], 1.0, seed=0)


def test_what_is_lost_entirely_is_within_a_limit_of_everything() -> None:
    assert risk_of_drop([1.0] * 9, [0.0] * 9, 100.0, seed=0, draws=500) == 1 / 501


@pytest.mark.parametrize(("nats", "risk"), [(0.68, 1 / 501), (0.70, 1.0)])
def test_a_limit_of_a_rise_is_in_percent_of_perplexity(nats: float, risk: float) -> None:
    """Twice the perplexity is log 2, 0.693 nats, more per token."""
    tokens = [3, 5, 9]
    rises = [nats * count for count in tokens]
    assert risk_of_rise([0.0] * 3, rises, tokens, 100.0, seed=0, draws=500) == risk
