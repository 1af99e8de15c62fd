"""Rounds of descent over a fake scorer: where each begins, what is kept, what a job that goes on repeats."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from search.errors import ScoringError
from search.matrix import MatrixShape
from search.objectives import MaxDrop, TargetParams
from search.seeds import lagrangian
from search.settings import SearchSettings
from search.space import Genome, SearchSpace
from service.descent import DESCENT_EXAMPLES, FILE, WORTHWHILE_NATS, descended
from service.events import EventType
from service.search_plan import SearchPlan
from service.spec import JobSpec
from workers.scores import Failure, Reaction

SPACE = SearchSpace(
    [MatrixShape(name=f"m{i}", out_features=64, in_features=64, layer=i, kind="m") for i in range(4)], 2
)
ENERGIES = [10 / np.arange(1, 65, dtype=np.float64)] * 4
Run = Callable[..., tuple[Any, Any]]

PLAN = SearchPlan(space=SPACE, objective=TargetParams(share=0.4), settings=SearchSettings())
START = lagrangian(SPACE, ENERGIES, 0.4)


class FakeScorer:
    """A loss that falls where the first matrix grows and the second one shrinks, always.

    Args:
        failure: Why nothing can be measured.
        gains: By how much it falls in each round; afterwards, as ever, by 0.9 nats.
    """

    def __init__(self, failure: str | None = None, gains: Sequence[float] = ()) -> None:
        self.asked: list[tuple[Genome, range, int]] = []
        self._failure, self._gains = failure, list(gains)

    def react(self, genome: Genome, examples: range, window: int) -> Reaction | Failure:
        self.asked.append((genome, examples, window))
        if self._failure is not None:
            return Failure(reason=self._failure)
        rank = np.array(SPACE.ranks(genome))
        kept, cut = np.tile([-1.0, -0.1, -1.0, -1.0], (len(examples), 1)), np.zeros((len(examples), 4))
        cut[:, 0] = -1.0
        scale = self._gains.pop(0) / 0.9 if self._gains else 1.0
        return Reaction(
            start=rank - window, rank=rank, stop=rank + window, kept=scale * kept, cut=scale * cut
        )


@pytest.fixture
def make(tiny_job: dict[str, Any]) -> Callable[[int | None], JobSpec]:
    return lambda rounds: JobSpec.model_validate(
        {**tiny_job, "search": {**tiny_job["search"], "descent_rounds": rounds}}
    )


@pytest.fixture
def run(make_log: Callable[[Path, str], Any]) -> Run:
    def descend(
        spec: JobSpec, directory: Path, scorer: FakeScorer, calibration: int = 100, plan: SearchPlan = PLAN
    ) -> tuple[SearchPlan, Any]:
        log, made = make_log(directory, "descend"), cast("Any", scorer)
        return descended(spec, plan, ENERGIES, calibration, made, log), log

    return descend


def test_each_round_begins_where_the_one_before_ended(
    make: Callable[[int | None], JobSpec], tmp_path: Path, run: Run
) -> None:
    scorer = FakeScorer()
    plan, log = run(make(2), tmp_path, scorer)
    after = [(START[0] + n, START[1] - n, *START[2:]) for n in range(3)]
    assert scorer.asked == [(genome, range(100), 2) for genome in after[:2]]
    assert plan == replace(PLAN, start=after[2])
    assert [type for type, _ in log.events] == [EventType.GENOME_DESCENDED] * 2
    assert log.events[1][1] == {
        "round": 2,
        "kept_share": SPACE.kept_share(after[2]),
        "steps": 2,
        "expected_nats": pytest.approx(-0.9),
    }


def test_a_job_that_goes_on_repeats_no_round_and_ends_with_the_same(
    make: Callable[[int | None], JobSpec], tmp_path: Path, run: Run
) -> None:
    expected, _ = run(make(3), tmp_path / "whole", FakeScorer())
    run(make(2), tmp_path / "cut", FakeScorer())
    scorer = FakeScorer()
    plan, _ = run(make(3), tmp_path / "cut", scorer)
    assert len(scorer.asked) == 1
    assert plan == expected


def test_rounds_go_round_a_large_calibration_split(
    make: Callable[[int | None], JobSpec], tmp_path: Path, run: Run
) -> None:
    scorer = FakeScorer()
    run(make(3), tmp_path, scorer, calibration=2 * DESCENT_EXAMPLES + 5)
    first, second = range(DESCENT_EXAMPLES), range(DESCENT_EXAMPLES, 2 * DESCENT_EXAMPLES)
    assert [examples for _, examples, _ in scorer.asked] == [first, second, first]


def test_a_round_that_promises_little_is_the_last(
    make: Callable[[int | None], JobSpec], tmp_path: Path, run: Run
) -> None:
    scorer = FakeScorer(gains=[1.1 * WORTHWHILE_NATS, 0.9 * WORTHWHILE_NATS])
    plan, log = run(make(5), tmp_path, scorer)
    assert plan.start == (START[0] + 2, START[1] - 2, *START[2:])  # it is taken for what it is worth
    assert len(log.events) == len(scorer.asked) == 2
    assert log.reports == [(0, 5), (1, 5), (2, 5), (2, 2)]
    again = FakeScorer()
    assert run(make(5), tmp_path, again)[0] == plan
    assert not again.asked


def test_without_rounds_nothing_is_measured(
    make: Callable[[int | None], JobSpec], tmp_path: Path, run: Run
) -> None:
    scorer = FakeScorer()
    plan, _ = run(make(0), tmp_path, scorer)
    assert plan == PLAN
    assert not scorer.asked
    assert not (tmp_path / FILE).exists()


def test_a_genome_that_cannot_be_measured_fails_the_job_and_says_what_to_do(
    make: Callable[[int | None], JobSpec], tmp_path: Path, run: Run
) -> None:
    with pytest.raises(ScoringError, match=r"search.descent_rounds: no memory; 0 does without"):
        run(make(1), tmp_path, FakeScorer("no memory"))


def test_where_the_smallest_model_is_wanted_it_begins_at_the_smallest_seed_that_holds(
    make: Callable[[int | None], JobSpec], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    monkeypatch.setattr("service.reweighing.smallest_share", lambda *_: 0.3)
    scorer = FakeScorer()
    plan, _ = run(make(1), tmp_path, scorer, plan=replace(PLAN, objective=MaxDrop(points=2.0)))
    assert scorer.asked[0][0] == lagrangian(SPACE, ENERGIES, 0.3)
    assert plan.start is not None
    assert SPACE.kept_share(plan.start) <= 0.3


@pytest.mark.parametrize("objective", [{"kind": "max_drop"}, {"kind": "pareto"}])
def test_rounds_that_nobody_gave(tiny_job: dict[str, Any], objective: dict[str, Any]) -> None:
    document = {**tiny_job, "objective": objective}
    assert JobSpec.model_validate(document).descent_rounds == 5
    document["search"] = {**tiny_job["search"], "descent_rounds": 3}
    assert JobSpec.model_validate(document).descent_rounds == 3
