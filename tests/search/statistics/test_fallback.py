import math
from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ranksieve.search.statistics.fallback import fallback
from ranksieve.search.statistics.pvalues import risk_of_drop


class Risks:
    """The least risks at which candidates hold, and who was asked."""

    def __init__(self, *least: float) -> None:
        self._least = least
        self.asked: set[int] = set()

    def __call__(self, index: int) -> float:
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


def test_after_one_of_unknown_risk_the_test_goes_on_with_later_risks_only() -> None:
    assert fallback([1.0, 0.0], 0.2, Risks(math.inf, ALWAYS)) == ()
    assert fallback([0.5, 0.0, 0.5, 0.0], 0.2, Risks(math.inf, ALWAYS, 0.1, 0.1)) == (2, 3)
    assert fallback([0.5, 0.0, 0.5, 0.0], 0.2, Risks(math.inf, ALWAYS, 0.11, ALWAYS)) == ()


@given(
    st.lists(st.tuples(st.integers(0, 3), st.floats(0, 1) | st.just(math.inf)), max_size=12),
    st.floats(0.01, 0.5),
)
def test_the_end_is_that_of_a_test_of_all_from_the_largest_down(
    candidates: list[tuple[int, float]], risk: float
) -> None:
    """Each candidate: parts of the risk that are its own, and the least risk at which it holds."""
    whole = sum(parts for parts, _ in candidates) or 1
    risks, least = [parts / whole for parts, _ in candidates], [needed for _, needed in candidates]
    passed, at_hand = [], 0.0
    for index, (own, needed) in enumerate(zip(risks, least, strict=True)):
        at_hand = min(at_hand + own * risk, risk)
        if at_hand > 0:
            if needed <= at_hand:
                passed.append(index)
            else:
                at_hand = 0.0
    held = fallback(risks, risk, lambda index: least[index])
    assert held[-1:] == tuple(passed[-1:])
    assert set(held) <= set(passed)


@pytest.mark.parametrize("risks", [[1.0, 0.0, 0.0, 0.0], [0.3, 0.0, 0.7, 0.0], [0.25] * 4])
def test_a_sequence_keeps_the_error_of_one_test(risks: list[float]) -> None:
    """All candidates truly lose 4 points: how often is any of four passed at a limit of just under 4?"""
    rng = np.random.default_rng(11)

    def passes_any() -> bool:
        dense = (rng.random(300) < 0.8).astype(float)
        lost = rng.random((4, 300)) < 0.05
        candidates = [np.where((dense == 1) & lost_N, 0.0, dense) for lost_N in lost]

        @cache
        def least_risk(index: int) -> float:
            return risk_of_drop(dense, candidates[index], 3.999, seed=index, draws=500)

        return bool(fallback(risks, 0.2, least_risk))

    assert 0 < np.mean([passes_any() for _ in range(200)]) < 0.2 + 0.06


@pytest.mark.parametrize("risks", [[1.0, 0.0], [0.5, 0.5]])
def test_failures_where_a_candidate_would_not_hold_give_no_second_chance(risks: list[float]) -> None:
    """Both candidates break the promise; the p-value of the first is unknown wherever it would be refused."""
    rng = np.random.default_rng(3)

    def passes_any() -> bool:
        first, second = rng.random(2)
        return bool(fallback(risks, 0.2, Risks(first if first <= 0.2 * risks[0] else math.inf, second)))

    assert np.mean([passes_any() for _ in range(4000)]) == pytest.approx(0.2, abs=0.02)
