"""The task scorer over a fake runner: chunks, order, failures, drops."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
import pytest

from ranksieve.search.errors import ScoringError
from ranksieve.search.evolution.outcome import Outcome, Trial
from ranksieve.search.space.matrix import DENSE, MatrixShape
from ranksieve.search.space.space import SearchSpace
from ranksieve.service.pipeline.scoring import CHUNK, TaskScorer
from ranksieve.service.pipeline.trials import TrialScorer
from ranksieve.workers.types.plan import EncodedTask
from ranksieve.workers.types.scores import Beliefs, Failure, ScoreRequest, Scores

Key = TypeVar("Key")
MakeTask = Callable[[Any], EncodedTask]
SIZES = {"search": 40, "confirm": 600}
SPACE = SearchSpace(
    [MatrixShape(name=f"m{i}", out_features=8, in_features=8, layer=i, kind="m") for i in range(2)], 1
)


def make_scores(request: ScoreRequest, quality: float, nll_nats: float = 2.0) -> Scores:
    size = request.examples
    return Scores(
        quality=np.full(size, quality),
        exact=np.full(size, quality),
        nll_nats=np.full(size, nll_nats),
        kl_nats=np.full(size, 1 - quality),
        answer_tokens=np.full(size, 2.0),
        tokens=10 * size,
        seconds=0.5,
    )


class FakeRunner:
    """Answers like a model that is right where dense, and half right at rank r of 4; or like a language model."""

    def __init__(
        self, refuse: Callable[[ScoreRequest], bool] = lambda request: False, *, lm: bool = False
    ) -> None:
        self._refuse, self._lm = refuse, lm
        self.requests: list[ScoreRequest] = []
        self.beliefs: Any = None

    def run(
        self,
        method: str,
        requests: Sequence[ScoreRequest],
        on_done: Callable[[int], None] = lambda n: None,
    ) -> list[object]:
        self.requests += requests
        results: list[object] = []
        for request in requests:
            results.append(self._answer(method, request))
            on_done(len(results))
        return results

    def stream(
        self, method: str, take: Callable[[int], Iterable[tuple[Key, ScoreRequest]]]
    ) -> Iterator[tuple[Key, object]]:
        while taken := list(take(1)):
            for key, request in taken:
                self.requests.append(request)
                yield key, self._answer(method, request)

    def set_beliefs(self, beliefs: object) -> None:
        self.beliefs = beliefs

    def _answer(self, method: str, request: ScoreRequest) -> object:
        if self._refuse(request):
            return Failure(reason="not finite")
        if method == "score":
            return make_scores(request, -2.2 if self._lm else request.ranks[0] / 4, nll_nats=2.2)
        rows = np.zeros((request.examples, 2), dtype=np.float32)
        offsets = np.arange(request.examples + 1)
        return make_scores(request, -2.0 if self._lm else 1.0), Beliefs(
            logp_AK=rows, token_AK=rows.astype(np.int32), offset_E=offsets
        )


def outcomes(scorer: TrialScorer, *trials: Trial) -> list[Outcome]:
    waiting = list(trials)
    return list(scorer.outcomes(lambda idle: [waiting.pop(0) for _ in range(idle) if waiting], 0.8))


@pytest.fixture
def runner() -> FakeRunner:
    return FakeRunner()


@pytest.fixture
def scorer(runner: FakeRunner, make_task: MakeTask) -> TaskScorer:
    return TaskScorer(runner, SPACE, make_task("choice"), kl_weight=0.5)


def test_a_long_split_is_cut_at_fixed_places(scorer: TaskScorer, runner: FakeRunner) -> None:
    done: list[tuple[int, int]] = []
    scores = scorer.score_dense("confirm", lambda n, total: done.append((n, total)))
    assert [(r.start, r.stop) for r in runner.requests] == [(0, CHUNK), (CHUNK, 2 * CHUNK), (2 * CHUNK, 600)]
    assert all(request.ranks == (DENSE, DENSE) for request in runner.requests)
    assert done == [(0, 3), (1, 3), (2, 3), (3, 3)]
    assert (len(scores.quality), scores.tokens) == (600, 6000)


def test_beliefs_of_every_split_reach_the_actors(scorer: TaskScorer, runner: FakeRunner) -> None:
    scorer.score_dense("search")
    scorer.score_dense("confirm")
    assert {name: len(beliefs.logp_AK) for name, beliefs in runner.beliefs.items()} == SIZES


def test_trials_become_outcomes_against_dense(scorer: TaskScorer, runner: FakeRunner) -> None:
    scorer.score_dense("search")
    trials = [Trial(genome=(3, 3), examples=8), Trial(genome=(2, 0), examples=40)]
    first, second = outcomes(TrialScorer(scorer), *trials)
    assert [(r.ranks, r.start, r.stop) for r in runner.requests[-2:]] == [((3, 3), 0, 8), ((2, 0), 0, 40)]
    assert (first.trial, second.trial) == tuple(trials)
    assert (first.metric, first.drop_points, first.kl_nats) == (0.75, 25.0, 0.25)
    assert (second.drop_points, second.tokens, second.seconds) == (50.0, 400, 0.5)
    # half the KL, half the rise of 0.2 nats over 2 answer tokens
    assert (first.loss_nats, second.loss_nats) == (pytest.approx(0.175), pytest.approx(0.3))
    # all examples lose alike, and of 600 to confirm one more counts as lost
    assert first.drop_bound == pytest.approx(25 + 75 / 601)
    assert second.drop_bound == pytest.approx(50 + 50 / 601)


def test_a_failed_trial_is_a_failed_outcome(make_task: MakeTask) -> None:
    scorer = TaskScorer(
        FakeRunner(lambda request: request.ranks[0] == 1), SPACE, make_task("choice"), kl_weight=0.5
    )
    scorer.score_dense("search")
    good, bad = outcomes(
        TrialScorer(scorer), Trial(genome=(2, 2), examples=8), Trial(genome=(1, 1), examples=8)
    )
    assert good.failure is None
    assert (bad.failure, bad.metric) == ("not finite", None)


def test_an_overflowing_perplexity_is_a_failed_outcome(
    runner: FakeRunner, monkeypatch: Any, make_task: MakeTask
) -> None:
    scorer = TaskScorer(runner, SPACE, make_task("lm"), kl_weight=0.5)
    scorer.score_dense("search")
    monkeypatch.setattr(runner, "_answer", lambda method, request: make_scores(request, -1.0, nll_nats=1e9))
    (outcome,) = outcomes(TrialScorer(scorer), Trial(genome=(1, 1), examples=8))
    assert outcome.failure is not None
    assert "overflows" in outcome.failure
    assert outcome.tokens == 80


def test_a_dense_model_that_cannot_be_scored_ends_the_job(make_task: MakeTask) -> None:
    scorer = TaskScorer(
        FakeRunner(lambda request: request.start > 0), SPACE, make_task("choice"), kl_weight=0.5
    )
    with pytest.raises(ScoringError, match="dense model cannot be scored on confirm: not finite"):
        scorer.score_dense("confirm")


def test_one_failed_chunk_fails_the_genome_alone(make_task: MakeTask) -> None:
    runner = FakeRunner(lambda request: request.ranks[0] == 1 and request.start == CHUNK)
    scorer = TaskScorer(runner, SPACE, make_task("choice"), kl_weight=0.5)
    good, bad = scorer.score_candidates([(2, 2), (1, 1)], "confirm")
    assert isinstance(good, Scores)
    assert len(good.quality) == 600
    assert bad == Failure(reason="not finite")
