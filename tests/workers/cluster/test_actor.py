"""The whole scoring path on a real Ray: the answers of actors are those of a scorer in this process."""

import os
import signal
import threading
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import ray

from ranksieve.search.space.matrix import DENSE
from ranksieve.workers.cluster.actor import ScorerPlan, build_scorer
from ranksieve.workers.cluster.dispatcher import Dispatcher
from ranksieve.workers.cluster.session import Cluster
from ranksieve.workers.cluster.shares import Share
from ranksieve.workers.factors.prepared import PreparationPlan, Prepared
from ranksieve.workers.types.plan import EncodedTask
from ranksieve.workers.types.scores import Beliefs, ScoreRequest, Scores


@pytest.fixture
def plan(prepared: Prepared, make_scorer_plan: Callable[[Prepared], ScorerPlan]) -> ScorerPlan:
    return make_scorer_plan(prepared)


@pytest.fixture
def task(preparation_plan: PreparationPlan) -> EncodedTask:
    return preparation_plan.task


@pytest.fixture
def replaced() -> list[tuple[int, str]]:
    return []


@pytest.fixture
def dispatcher(
    cluster: Cluster,
    plan: ScorerPlan,
    task: EncodedTask,
    replaced: list[tuple[int, str]],
    make_share: Callable[..., Share],
) -> Iterator[Dispatcher]:
    dispatcher = cluster.dispatcher(
        plan,
        task,
        share=make_share(),
        timeout_s=120,
        cancelled=threading.Event(),
        on_replaced=lambda actor, reason: replaced.append((actor, reason)),
    )
    yield dispatcher
    dispatcher.close()


def test_killed_actor_changes_nothing(
    dispatcher: Dispatcher, plan: ScorerPlan, task: EncodedTask, replaced: list[tuple[int, str]]
) -> None:
    count = len(plan.matrices)
    requests = [
        ScoreRequest(ranks=(rank,) * count, split="search", start=0, stop=16) for rank in (DENSE, 2, 5, 0)
    ]
    scorer = build_scorer(plan, task)
    _, beliefs = scorer.score_dense(requests[0])
    scorer.set_beliefs({"search": beliefs})
    expected = [scorer.score(request) for request in requests]

    ((_, actor_beliefs),) = dispatcher.run("score_dense", requests[:1])
    assert isinstance(actor_beliefs, Beliefs)
    np.testing.assert_array_equal(actor_beliefs.logp_AK, beliefs.logp_AK)
    dispatcher.set_beliefs({"search": actor_beliefs})
    alive = [ray.get(dispatcher._crew[0].pid.remote())]
    assert alive != [os.getpid()]

    def kill_once(_: int) -> None:
        if alive:
            os.kill(alive.pop(), signal.SIGKILL)

    results = dispatcher.run("score", requests, on_done=kill_once)
    assert [actor for actor, _ in replaced] == [0]
    for result, wanted in zip(results, expected, strict=True):
        assert isinstance(result, Scores)
        assert isinstance(wanted, Scores)
        np.testing.assert_array_equal(result.nll_nats, wanted.nll_nats)
        np.testing.assert_array_equal(result.kl_nats, wanted.kl_nats)
        np.testing.assert_array_equal(result.quality, wanted.quality)
