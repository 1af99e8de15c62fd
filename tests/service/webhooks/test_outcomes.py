from random import Random

import pytest

from ranksieve.service.webhooks.outcomes import (
    ATTEMPTS,
    FIRST_WAIT_S,
    JITTER,
    LONGEST_WAIT_S,
    Outcome,
    wait_s,
)


@pytest.mark.parametrize("status", [200, 202, 204, 299])
def test_success_is_an_arrival(status: int) -> None:
    assert Outcome.answered(status) == Outcome(status=status)


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_a_failure_that_says_so(status: int) -> None:
    outcome = Outcome.answered(status)

    assert outcome.error == f"answered {status}; redirects are not followed"
    assert not outcome.gone


def test_gone_is_gone_and_other_refusals_are_not() -> None:
    assert Outcome.answered(410).gone
    assert not any(Outcome.answered(status).gone for status in (400, 401, 404, 429, 500, 503))


def test_waits_grow_spread_and_end() -> None:
    rng = Random(0)
    waits = [wait_s(attempt, rng) for attempt in range(1, ATTEMPTS + 1)]

    assert waits[-1] is None
    given = [wait for wait in waits if wait is not None]
    assert len(given) == ATTEMPTS - 1
    for number, wait in enumerate(given):
        plain = min(FIRST_WAIT_S * 4**number, LONGEST_WAIT_S)
        assert plain * (1 - JITTER) <= wait <= plain * (1 + JITTER)
    assert 24 * 3600 < sum(given) < 40 * 3600
    assert wait_s(1, Random(1)) != wait_s(1, Random(2))
