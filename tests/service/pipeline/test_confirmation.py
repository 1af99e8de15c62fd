"""Choosing among finalists, over a scorer whose scores are given."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tuning import tune

from ranksieve.search.errors import ScoringError
from ranksieve.search.evolution.finalists import Finalist
from ranksieve.search.space.matrix import MatrixShape
from ranksieve.search.space.space import Genome, SearchSpace
from ranksieve.search.statistics.intervals import DropInterval, paired_drop
from ranksieve.search.statistics.pvalues import risk_of_drop
from ranksieve.service.pipeline.confirmation import Winner, confirm
from ranksieve.service.run.joblog import JobLog
from ranksieve.service.spec import JobSpec
from ranksieve.service.store import Store
from ranksieve.workers.types.scores import Failure, Scores

Document = dict[str, Any]

SPACE = SearchSpace([MatrixShape(name="m", out_features=20, in_features=20, layer=0, kind="m")], 1)
FINALISTS: list[Genome] = [(9,), (6,), (4,), (2,)]
FIXED = [1.0, 0.0, 0.0, 0.0]
EXAMPLES = 200


class FakeScorer:
    """Scorer of 200 examples, all of which the dense model has right.

    `lost`: number that each genome has wrong; None: its scoring fails. `scored`: genomes of the scorings that
    succeeded, in their order.
    """

    space = SPACE

    def __init__(self, lost: dict[Genome, int | None], kl_nats: dict[Genome, float] | None = None) -> None:
        self._lost = lost
        self._kl_nats = kl_nats or {}
        self.splits: list[str] = []
        self.scored: list[Genome] = []

    def score_candidates(
        self,
        genomes: Sequence[Genome],
        split: str,
        report: Any = lambda done, total: None,
    ) -> list[Scores | Failure]:
        self.splits += [split] * len(genomes)
        report(len(genomes), len(genomes))
        results = [self._scores(genome) for genome in genomes]
        self.scored += [
            genome for genome, result in zip(genomes, results, strict=True) if isinstance(result, Scores)
        ]
        return results

    def drop(self, scores: Scores, split: str, confidence: float, seed: int) -> DropInterval:
        return paired_drop(np.ones(len(scores.quality)), scores.quality, confidence=confidence, seed=seed)

    def risk(self, scores: Scores, split: str, points: float, seed: int) -> float:
        assert split == "confirm"
        return risk_of_drop(np.ones(len(scores.quality)), scores.quality, points, seed=seed)

    def loss(self, scores: Scores, split: str) -> float:
        assert split == "confirm"
        return float(scores.kl_nats.mean())

    def _scores(self, genome: Genome) -> Scores | Failure:
        lost = self._lost.get(genome, 0)
        if lost is None:
            return Failure(reason="not finite")
        quality = np.ones(EXAMPLES)
        quality[:lost] = 0
        kl = np.full(EXAMPLES, self._kl_nats.get(genome, 0.1))
        same = {name: quality for name in ("exact", "nll_nats", "answer_tokens")}
        return Scores(quality=quality, kl_nats=kl, tokens=1, seconds=1.0, **same)


@pytest.fixture
def log(store: Store, tiny_job: Document, tmp_path: Path) -> JobLog:
    job = store.submissions.create_job(JobSpec.model_validate(tune(tiny_job)))
    return JobLog(store, job, tmp_path / "job")


def decide(
    log: JobLog, scorer: FakeScorer, tiny_job: Document, *, risks: Sequence[float] = FIXED, **objective: Any
) -> Winner:
    spec = JobSpec.model_validate(tune({**tiny_job, "objective": objective}))
    finalists = [Finalist(genome=genome, risk=risk) for genome, risk in zip(FINALISTS, risks, strict=True)]
    return confirm(spec, scorer, finalists, log)  # type: ignore[arg-type]


def passed(winner: Winner) -> list[bool]:
    return [one.passed for one in winner.confirmed]


def scored(log: JobLog, store: Store) -> list[float]:
    """Kept shares that the events tell of, in their order."""
    events = store.events(log.job.id)
    return [event.data["kept_share"] for event in events if event.type == "finalist.confirmed"]


def shares(*genomes: Genome) -> list[float]:
    return [SPACE.kept_share(genome) for genome in genomes]


def test_the_smallest_that_holds_before_the_first_failure_wins(
    log: JobLog, store: Store, tiny_job: Document
) -> None:
    # The smallest loses nothing, but comes after one that failed: taking it would be a second chance.
    scorer = FakeScorer({(9,): 0, (6,): 2, (4,): 30, (2,): 0})
    winner = decide(log, scorer, tiny_job, kind="max_drop", points=5.0, confidence=0.9)
    assert (winner.genome, winner.held, winner.confidence) == ((6,), True, 0.9)
    assert winner.confirm_drop.estimate == pytest.approx(1.0)
    assert passed(winner) == [True, True, False]
    assert scored(log, store) == shares((9,), (6,), (4,))
    risks = [one.risk for one in winner.confirmed]
    assert [risk is not None and risk <= 0.1 for risk in risks] == [True, True, False]
    assert risks == [event.data["risk"] for event in store.events(log.job.id) if "risk" in event.data]


def test_larger_finalists_are_not_scored_where_their_risk_changes_nothing(
    log: JobLog, store: Store, tiny_job: Document
) -> None:
    scorer = FakeScorer({(9,): 8, (6,): 0, (4,): 6, (2,): 40})  # four points, none, three
    winner = decide(log, scorer, tiny_job, risks=[0.1, 0, 0.9, 0], kind="max_drop", points=5.0)
    assert (winner.genome, winner.held, winner.confidence) == ((4,), True, 0.8)
    assert [one.genome for one in winner.confirmed] == [(4,), (2,)]
    assert [one.drop.confidence for one in winner.confirmed] == [0.8, 0.8]
    assert passed(winner) == [True, False]
    assert scored(log, store) == shares((4,), (2,))


@pytest.mark.parametrize(("lost", "winning", "holds"), [(0, (4,), True), (12, (9,), False)])
def test_larger_finalists_are_scored_where_their_risk_decides(
    log: JobLog, store: Store, tiny_job: Document, lost: int, winning: Genome, holds: bool
) -> None:
    scorer = FakeScorer({(9,): lost, (6,): 0, (4,): 6, (2,): 40})  # three points hold at 80 %, not at 99.6 %
    winner = decide(log, scorer, tiny_job, risks=[0.98, 0, 0.02, 0], kind="max_drop", points=5.0)
    assert scored(log, store)[:3] == shares((4,), (2,), (9,))
    assert (winner.genome, winner.held) == (winning, holds)


@pytest.mark.parametrize("kind", ["max_drop", "pareto"])
def test_finalists_are_scored_once_on_all_examples(log: JobLog, tiny_job: Document, kind: str) -> None:
    scorer = FakeScorer({})
    winner = decide(log, scorer, tiny_job, risks=[0.5, 0, 0.5, 0], kind=kind, points=10.0)
    assert sorted(scorer.scored) == sorted(one.genome for one in winner.confirmed)
    assert {len(one.scores.quality) for one in winner.confirmed} == {EXAMPLES}


def test_larger_finalists_are_scored_where_a_smaller_one_cannot_be(log: JobLog, tiny_job: Document) -> None:
    scorer = FakeScorer({(4,): None})
    winner = decide(log, scorer, tiny_job, risks=[0.5, 0, 0.5, 0], kind="max_drop", points=10.0)
    assert (winner.genome, winner.held) == ((6,), True)
    assert scorer.scored == [(9,), (6,)]


def test_a_finalist_whose_drop_is_no_number_has_failed(log: JobLog, store: Store, tiny_job: Document) -> None:
    class Overflowing(FakeScorer):
        def drop(self, scores: Scores, split: str, confidence: float, seed: int) -> DropInterval:
            if not scores.quality.all():
                raise ScoringError("perplexity overflows")
            return super().drop(scores, split, confidence, seed)

    winner = decide(log, Overflowing({(4,): 1}), tiny_job, kind="max_drop", points=5.0)
    assert (winner.genome, winner.held) == ((6,), True)
    assert scored(log, store) == shares((9,), (6,))
    failed = [event for event in store.events(log.job.id) if event.type == "candidate.failed"]
    assert [event.data["reason"] for event in failed] == ["perplexity overflows"]


@pytest.mark.parametrize(
    ("points", "confidence", "holds"), [(1.0, 0.8, True), (0.5, 0.8, False), (1.0, 0.95, False)]
)
def test_too_few_examples_carry_no_promise_even_if_none_is_lost(
    log: JobLog, tiny_job: Document, points: float, confidence: float, holds: bool
) -> None:
    """Of 200 examples none is lost where 0.8 points are, one time in five; where 1.5 are, one in twenty."""
    winner = decide(log, FakeScorer({}), tiny_job, kind="max_drop", points=points, confidence=confidence)
    assert winner.held is holds


def test_the_dense_model_itself_keeps_every_promise(log: JobLog, tiny_job: Document) -> None:
    dense = (len(SPACE.genes[0].levels) - 1,)
    spec = JobSpec.model_validate(tune({**tiny_job, "objective": {"kind": "max_drop", "points": 0}}))
    assert confirm(spec, FakeScorer({}), [Finalist(genome=dense, risk=1.0)], log).held  # type: ignore[arg-type]


def test_the_dense_model_with_few_bits_is_tested_like_any_other(log: JobLog, tiny_job: Document) -> None:
    dense = (len(SPACE.genes[0].levels) - 1,)
    asked = {"bits": 4, "objective": {"kind": "max_drop", "points": 0}}
    spec = JobSpec.model_validate(tune({**tiny_job, **asked}))
    assert not confirm(spec, FakeScorer({}), [Finalist(genome=dense, risk=1.0)], log).held  # type: ignore[arg-type]


def test_none_holds(log: JobLog, tiny_job: Document) -> None:
    scorer = FakeScorer(dict.fromkeys(FINALISTS, 40))
    winner = decide(log, scorer, tiny_job, kind="max_drop", points=5.0)
    assert (winner.genome, winner.held) == ((9,), False)  # the safest of them, said to be none
    assert passed(winner) == [False]


def test_the_bound_counts_not_the_estimate(log: JobLog, tiny_job: Document) -> None:
    scorer = FakeScorer(dict.fromkeys(FINALISTS, 9))  # 4.5 points, within 5 but not with confidence
    assert not decide(log, scorer, tiny_job, kind="max_drop", points=5.0, confidence=0.95).held


def test_at_a_given_size_the_lowest_loss_wins(log: JobLog, tiny_job: Document) -> None:
    scorer = FakeScorer({(4,): 50}, kl_nats={(4,): 0.01})
    winner = decide(log, scorer, tiny_job, kind="target_params", share=0.5)
    assert (winner.genome, winner.held) == ((4,), True)
    assert passed(winner) == [True] * 4
    assert [one.risk for one in winner.confirmed] == [None] * 4  # nothing is promised


def test_of_a_front_all_are_confirmed_and_the_smallest_before_the_first_failure_wins(
    log: JobLog, store: Store, tiny_job: Document
) -> None:
    scorer = FakeScorer({(9,): 0, (6,): 2, (4,): 30, (2,): 0})
    winner = decide(log, scorer, tiny_job, kind="pareto", points=5.0, confidence=0.9)
    assert (winner.genome, winner.held, winner.confidence) == ((6,), True, 0.9)
    assert [one.genome for one in winner.confirmed] == FINALISTS
    assert passed(winner) == [True, True, False, False]  # the promise is not for the last: it was not tested
    assert scored(log, store) == shares(*FINALISTS)
    assert set(scorer.splits) == {"confirm"}


def test_of_a_front_all_that_hold_are_told_also_where_only_the_last_risk_decides(
    log: JobLog, tiny_job: Document
) -> None:
    scorer = FakeScorer({(9,): 0, (6,): 0, (4,): 30, (2,): 0})
    winner = decide(log, scorer, tiny_job, risks=[0.5, 0, 0, 0.5], kind="pareto", points=5.0)
    assert winner.genome == (2,)
    assert passed(winner) == [True, True, False, True]


def test_of_a_front_the_largest_wins_where_none_holds(log: JobLog, tiny_job: Document) -> None:
    winner = decide(log, FakeScorer(dict.fromkeys(FINALISTS, 40)), tiny_job, kind="pareto", points=5.0)
    assert (winner.genome, winner.held) == ((9,), False)


@pytest.mark.parametrize(("lost", "holds"), [(3, True), (4, False)])
def test_a_finalist_that_cannot_be_scored_passes_no_risk_on(
    log: JobLog, tiny_job: Document, lost: int, holds: bool
) -> None:
    """Three of 200 lost hold at the half of the risk that is left, four only at all of it."""
    wanted = {"kind": "max_drop", "points": 5.0, "confidence": 0.95}
    whole = decide(log, FakeScorer({(9,): lost}), tiny_job, risks=[1, 0, 0, 0], **wanted)
    assert whole.confirmed[0].passed
    scorer = FakeScorer({(9,): None, (6,): lost, (4,): 30})
    winner = decide(log, scorer, tiny_job, risks=[0.5, 0.5, 0, 0], **wanted)
    assert (winner.genome, winner.held) == ((6,), holds)


def test_a_finalist_that_cannot_be_scored_with_all_of_the_risk_ends_the_test(
    log: JobLog, tiny_job: Document
) -> None:
    scorer = FakeScorer({(9,): None, (6,): None, (4,): 0})
    winner = decide(log, scorer, tiny_job, kind="max_drop", points=5.0)
    assert (winner.genome, winner.held) == ((4,), False)
    assert scorer.scored == [(4,)]


def test_all_finalists_fail(log: JobLog, tiny_job: Document) -> None:
    scorer = FakeScorer(dict.fromkeys(FINALISTS, None))
    with pytest.raises(ScoringError, match="no finalist can be scored"):
        decide(log, scorer, tiny_job, kind="max_drop", points=5.0)


def test_the_test_split_is_only_looked_at_by_with_test(log: JobLog, tiny_job: Document) -> None:
    scorer = FakeScorer({(2,): 4})
    winner = decide(log, scorer, tiny_job, kind="max_drop", points=5.0)
    assert set(scorer.splits) == {"confirm"}
    tested = winner.with_test(scorer, log)  # type: ignore[arg-type]
    assert scorer.splits.count("test") == 1
    assert tested.test_drop is not None
    assert (winner.test, tested.test_drop.estimate) == (None, pytest.approx(2.0))


def test_a_winner_that_fails_on_test(log: JobLog, tiny_job: Document) -> None:
    winner = decide(log, FakeScorer({}), tiny_job, kind="max_drop", points=5.0)
    with pytest.raises(ScoringError, match="test split: not finite"):
        winner.with_test(FakeScorer({winner.genome: None}), log)  # type: ignore[arg-type]
