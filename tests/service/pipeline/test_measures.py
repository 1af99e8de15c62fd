"""What scores are worth, of scores that are known by hand."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from ranksieve.service.pipeline.measures import Measures
from ranksieve.workers.types.plan import EncodedTask
from ranksieve.workers.types.scores import Scores

MakeTask = Callable[[Any], EncodedTask]

SIZES = {"search": 40, "confirm": 600}


def make_scores(split: str, quality: float, *, nll_nats: float = 2.0, kl_nats: float = 0.0) -> Scores:
    size = SIZES[split]
    return Scores(
        quality=np.full(size, quality),
        exact=np.full(size, quality),
        nll_nats=np.full(size, nll_nats),
        kl_nats=np.full(size, kl_nats),
        answer_tokens=np.full(size, 2.0),
        tokens=10 * size,
        seconds=0.5,
    )


@pytest.fixture
def measures(make_task: MakeTask) -> Measures:
    """Of a choice that the dense model always makes right."""
    measures = Measures(make_task("choice"), kl_weight=0.5)
    measures.dense = {split: make_scores(split, 1.0) for split in ("search", "confirm")}
    return measures


@pytest.mark.parametrize(("kl_weight", "loss"), [(1.0, 0.25), (0.0, 0.1), (0.5, 0.175)])
def test_the_loss_mixes_kl_and_likelihood(
    measures: Measures, kl_weight: float, loss: float, make_task: MakeTask
) -> None:
    mixed = Measures(make_task("choice"), kl_weight)
    mixed.dense = measures.dense
    scores = make_scores("search", 0.75, nll_nats=2.2, kl_nats=0.25)  # of two answer tokens
    assert mixed.loss(scores, "search") == pytest.approx(loss)


def test_the_drop_of_a_choice_is_in_points(measures: Measures) -> None:
    scores = make_scores("confirm", 0.75)
    drop = measures.drop(scores, "confirm", 0.8, seed=0)
    assert (drop.estimate, drop.upper) == (25.0, 25.0)
    assert [measures.risk(scores, "confirm", limit, seed=0) < 0.2 for limit in (25.0, 26.0)] == [False, True]
    assert measures.interval(scores) == pytest.approx([0.75, 0.75])


def test_what_too_few_examples_could_promise_is_not_foreseen(measures: Measures) -> None:
    """Where nothing is lost, either, as then the confirm split would not let it through."""
    dense = measures.dense["search"]
    assert measures.drop(dense, "search", 0.8, seed=0).within(0.0)
    assert not measures.foreseen(dense, 0.8).within(0.1)
    assert measures.foreseen(dense, 0.8).within(0.2)  # 600 to confirm


def test_few_examples_let_through_what_the_confirm_split_would(measures: Measures) -> None:
    dense = measures.dense["search"]
    right = np.ones(len(dense.quality))
    right[:2] = 0.0  # of 40, and 600 to confirm
    scores = replace(dense, quality=right)
    alone, foreseen = measures.drop(scores, "search", 0.95, seed=0), measures.foreseen(scores, 0.95)
    assert alone.estimate == foreseen.estimate == pytest.approx(5.0)
    assert foreseen.upper - 5.0 == pytest.approx((alone.upper - 5.0) / np.sqrt(600 / 40), rel=0.3)
    assert foreseen.within(8.0)
    assert not alone.within(8.0)


def test_the_drop_of_a_language_model_is_percent_of_perplexity(make_task: MakeTask) -> None:
    measures = Measures(make_task("lm"), kl_weight=0.5)
    dense, scores = make_scores("confirm", -2.0), make_scores("confirm", -2.2, nll_nats=2.2)
    measures.dense = {"confirm": dense}
    assert measures.metric(dense) == pytest.approx(np.exp(1.0))
    assert measures.drop(scores, "confirm", 0.8, seed=0).estimate == pytest.approx(100 * np.expm1(0.1))
    assert [measures.risk(scores, "confirm", limit, seed=0) < 0.2 for limit in (10.5, 10.6)] == [False, True]
    assert measures.interval(dense) is None
    tokens = np.where(np.arange(600) % 2, 1.0, 9.0)  # of records that lose as much of each token
    measures.dense = {"confirm": replace(dense, quality=-2 * tokens, answer_tokens=tokens)}
    drop = measures.drop(replace(scores, quality=-2.1 * tokens), "confirm", 0.8, seed=0)
    assert (drop.low, drop.upper) == pytest.approx([100 * np.expm1(0.1)] * 2)


def test_a_rise_of_perplexity_is_foreseen_without_a_lost_example(make_task: MakeTask) -> None:
    measures = Measures(make_task("lm"), kl_weight=0.5)
    measures.dense = {"search": make_scores("search", -2.0)}
    foreseen = measures.foreseen(make_scores("search", -2.2, nll_nats=2.2), 0.95)
    assert foreseen.estimate == foreseen.upper == pytest.approx(100 * np.expm1(0.1))
