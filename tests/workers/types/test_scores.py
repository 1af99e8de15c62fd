import math

import numpy as np
import pytest

from ranksieve.search.errors import ScoringError
from ranksieve.workers.types.scores import (
    Beliefs,
    ScoreRequest,
    Scores,
    first,
    join_beliefs,
    join_scores,
    metric_of,
)


def scores(*qualities: float) -> Scores:
    values = np.array(qualities, dtype=np.float64)
    return Scores(
        quality=values,
        exact=values + 1,
        nll_nats=values + 2,
        kl_nats=values + 3,
        answer_tokens=np.full(len(values), 2.0),
        tokens=10 * len(values),
        seconds=0.5,
    )


def beliefs(*answer_tokens: int) -> Beliefs:
    rows = sum(answer_tokens)
    return Beliefs(
        logp_AK=np.arange(rows * 2, dtype=np.float32).reshape(rows, 2),
        token_AK=np.arange(rows * 2, dtype=np.int32).reshape(rows, 2),
        offset_E=np.cumsum([0, *answer_tokens]),
    )


def test_request_counts_its_examples() -> None:
    assert ScoreRequest(ranks=(), split="search", start=3, stop=8).examples == 5


def test_joined_scores_are_in_order() -> None:
    joined = join_scores([scores(1.0, 2.0), scores(3.0)])
    assert joined.quality.tolist() == [1, 2, 3]
    assert joined.exact.tolist() == [2, 3, 4]
    assert joined.nll_nats.tolist() == [3, 4, 5]
    assert joined.kl_nats.tolist() == [4, 5, 6]
    assert joined.answer_tokens.tolist() == [2, 2, 2]
    assert (joined.tokens, joined.seconds) == (30, 1.0)


def test_first_scores() -> None:
    part = first(scores(1.0, 2.0, 3.0), 2)
    assert (part.quality.tolist(), part.kl_nats.tolist()) == ([1, 2], [4, 5])
    assert (part.tokens, part.seconds) == (0, 0.0)


@pytest.mark.parametrize("cut", [0, 1, 2, 4])
def test_parts_of_beliefs_join_to_the_whole(cut: int) -> None:
    whole = beliefs(3, 1, 2, 1)
    joined = join_beliefs([whole.part(0, cut), whole.part(cut, 4)])
    assert joined.offset_E.tolist() == [0, 3, 4, 6, 7]
    np.testing.assert_array_equal(joined.logp_AK, whole.logp_AK)
    np.testing.assert_array_equal(joined.token_AK, whole.token_AK)


def test_part_of_beliefs_counts_from_zero() -> None:
    part = beliefs(3, 1, 2, 1).part(1, 3)
    assert part.offset_E.tolist() == [0, 1, 3]
    assert part.token_AK[:, 0].tolist() == [6, 8, 10]


def test_metrics() -> None:
    values = scores(0.0, 1.0, 0.5)
    assert metric_of("choice", values) == metric_of("generate", values) == 0.5
    assert metric_of("lm", values) == pytest.approx(math.exp((2 + 3 + 2.5) / 6))


def test_perplexity_that_overflows_is_an_error() -> None:
    with pytest.raises(ScoringError, match="overflows"):
        metric_of("lm", scores(1e6))
