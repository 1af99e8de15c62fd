"""Rounds of reweighing over a fake scorer: what is measured where, what is kept, what a job that goes on repeats."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from tuning import tune

from ranksieve.search.errors import ConflictError, ScoringError
from ranksieve.search.evolution.settings import SearchSettings
from ranksieve.search.space.matrix import MatrixShape
from ranksieve.search.space.objectives import MaxDrop, Pareto, TargetParams
from ranksieve.search.space.space import Genome, SearchSpace
from ranksieve.search.start.seeds import lagrangian
from ranksieve.search.statistics.intervals import DropInterval
from ranksieve.service.job.events import EventType
from ranksieve.service.job.files import read_json, write_json
from ranksieve.service.pipeline.rounds.records import next_stair
from ranksieve.service.pipeline.rounds.reweighing import FILE, reweighed
from ranksieve.service.pipeline.search_plan import SearchPlan
from ranksieve.service.spec import JobSpec
from ranksieve.workers.types.plan import EncodedTask, Example, Row
from ranksieve.workers.types.scores import Failure, LossSlopes

SPACE = SearchSpace(
    [MatrixShape(name=f"m{i}", out_features=64, in_features=64, layer=i, kind="m") for i in range(4)], 2
)
ENERGIES = [10 / np.arange(1, 65, dtype=np.float64)] * 4
Run = Callable[..., tuple[Any, Any]]

PLAN = SearchPlan(space=SPACE, objective=TargetParams(share=0.4), settings=SearchSettings())


class FakeScorer:
    """A loss that reacts to the first matrix ever more than its energies say, and to the others as they say."""

    def __init__(self, failure: str | None = None) -> None:
        self.asked: list[tuple[Genome, range, int]] = []
        self._failure = failure

    def measure_slopes(self, genome: Genome, examples: range, window: int) -> LossSlopes | Failure:
        self.asked.append((genome, examples, window))
        if self._failure is not None:
            return Failure(reason=self._failure)
        rank = np.array(SPACE.ranks(genome))
        start, stop = np.maximum(rank - window, 0), np.minimum(rank + window, 31)
        per_example = 3.0  # tokens, as in `task`
        cut = [-per_example * e[r:s].sum() for e, r, s in zip(ENERGIES, rank, stop, strict=True)]
        kept = np.zeros(4)
        kept[0] = -1e9
        count = len(examples)
        return LossSlopes(
            start=start,
            rank=rank,
            stop=stop,
            kept=np.tile(kept, (count, 1)),
            cut=np.tile(cut, (count, 1)),
            quality=np.ones(count),
            dense_quality=np.ones(count),
        )

    def drop_of(self, slopes: LossSlopes, examples: range, confidence: float) -> DropInterval:
        return DropInterval(estimate=0.0, low=0.0, high=0.0, upper=0.0, confidence=confidence)


class DroppingScorer(FakeScorer):
    """Loses points as it gets smaller: within the limit down to a share."""

    def __init__(self, holds_to: float) -> None:
        super().__init__()
        self._holds_to = holds_to
        self.scored: list[float] = []

    def drop_of(self, slopes: LossSlopes, examples: range, confidence: float) -> DropInterval:
        genome, asked, _ = self.asked[-1]
        assert len(slopes.kept) == len(examples) == len(asked)
        upper = 1.5 if SPACE.kept_share(genome) >= self._holds_to else 5.0
        return DropInterval(estimate=1.0, low=0.5, high=upper, upper=upper, confidence=confidence)

    def score_candidates(self, candidates: Any, split: str) -> list[float]:
        assert split == "search"
        shares = [SPACE.kept_share(candidate.genome) for candidate in candidates]
        self.scored += shares
        return shares

    def drop(self, share: float, split: str, confidence: float, seed: int) -> DropInterval:
        points = 1.0 if share >= self._holds_to else 5.0
        return DropInterval(estimate=points, low=points, high=points, upper=points, confidence=confidence)


def task_of(calibration: int) -> EncodedTask:
    example = Example(rows=(Row(ids=(1, 2, 3), spans=()),), choices=2, label=0, prompt_ids=(1,))
    splits = {"calibration": (example,) * calibration}
    return EncodedTask(kind="choice", splits=splits, max_new_tokens=1, digest="", split_digests={})


@pytest.fixture
def task() -> EncodedTask:
    return task_of(10)


@pytest.fixture
def make(tiny_job: dict[str, Any]) -> Callable[..., JobSpec]:
    def spec(rounds: int, **policy: Any) -> JobSpec:
        policy = {"rank_step": 2, "reweigh_rounds": rounds, **policy}
        return JobSpec.model_validate(tune({**tiny_job, "policy": policy}))

    return spec


@pytest.fixture
def run(make_log: Callable[[Path, str], Any]) -> Run:
    def reweigh(
        spec: JobSpec, task: EncodedTask, directory: Path, scorer: FakeScorer, plan: SearchPlan = PLAN
    ) -> tuple[Any, Any]:
        log, made = make_log(directory, "reweigh"), cast("Any", scorer)
        made.space, made.task = plan.space, task
        return reweighed(spec, plan, ENERGIES, made, log), log

    return reweigh


def test_weights_grow_where_the_loss_reacts_more_and_the_plain_genome_joins_the_seeds(
    make: Callable[..., JobSpec], task: EncodedTask, tmp_path: Path, run: Run
) -> None:
    scorer = FakeScorer()
    (plan, energies, share), log = run(make(2, gram_examples=6), task, tmp_path, scorer)

    ratios = [float(after[0] / before[0]) for after, before in zip(energies, ENERGIES, strict=True)]
    assert ratios == pytest.approx([1.4**2, 1, 1, 1])
    plain = lagrangian(SPACE, ENERGIES, 0.4)
    assert plan.seeds == (plain,)
    assert share == 0.4
    assert scorer.asked[0] == (plain, range(10), 4)
    assert scorer.asked[1][0] != plain  # allocated by the new weights
    types = [type for type, _ in log.events]
    assert types == [EventType.MATRICES_REWEIGHED] * 2
    assert log.events[-1][1]["most"] == pytest.approx(1.4**2)


def test_a_job_that_goes_on_repeats_no_round_and_ends_with_the_same(
    make: Callable[..., JobSpec], task: EncodedTask, tmp_path: Path, run: Run
) -> None:
    (_, expected, _), _ = run(make(3), task, tmp_path / "whole", FakeScorer())
    run(make(2), task, tmp_path / "cut", FakeScorer())

    scorer = FakeScorer()
    (_, energies, _), log = run(make(3), task, tmp_path / "cut", scorer)

    assert len(scorer.asked) == 1
    assert log.reports == [(2, 3), (3, 3)]
    for one, other in zip(energies, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_of_more_rounds_than_are_wanted_by_now_all_count(
    make: Callable[..., JobSpec], task: EncodedTask, tmp_path: Path, run: Run
) -> None:
    (plan, expected, _), _ = run(make(3), task, tmp_path, FakeScorer())
    (again, energies, _), log = run(make(2), task, tmp_path, FakeScorer())
    assert again == plan
    assert not log.events
    for one, other in zip(energies, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_it_tells_what_the_genome_keeps_and_not_what_it_may_cost(
    make: Callable[..., JobSpec], task: EncodedTask, tmp_path: Path, run: Run
) -> None:
    scorer = FakeScorer()
    _, log = run(make(2), task, tmp_path, scorer)
    kept = [SPACE.kept_share(genome) for genome, _, _ in scorer.asked]
    assert [event["kept_share"] for _, event in log.events] == kept
    assert kept[0] < 0.4


def test_rounds_that_an_earlier_version_kept_still_count(
    make: Callable[..., JobSpec], task: EncodedTask, tmp_path: Path, run: Run
) -> None:
    (_, expected, _), _ = run(make(2), task, tmp_path, FakeScorer())
    saved = read_json(tmp_path / FILE)
    write_json(tmp_path / FILE, [{k: v for k, v in one.items() if k != "kept_share"} for one in saved])
    scorer = FakeScorer()
    (_, energies, _), _ = run(make(2), task, tmp_path, scorer)
    assert not scorer.asked
    for one, other in zip(energies, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_where_many_sizes_are_wanted_it_measures_in_the_middle(
    make: Callable[..., JobSpec], task: EncodedTask, tmp_path: Path, run: Run
) -> None:
    scorer = FakeScorer()
    many = Pareto(smallest=0.2, largest=0.45, sizes=3, finalists=2, points=2.0)
    run(make(1), task, tmp_path, scorer, replace(PLAN, objective=many))
    assert scorer.asked[0][0] == lagrangian(SPACE, ENERGIES, 0.3)


def test_rounds_go_round_the_calibration_split(
    make: Callable[..., JobSpec], tmp_path: Path, run: Run
) -> None:
    scorer, task = FakeScorer(), task_of(600)
    run(make(2), task, tmp_path, scorer)
    run(make(5), task, tmp_path, scorer)  # goes on
    first, second = range(256), range(256, 512)
    assert [examples for _, examples, _ in scorer.asked] == [first, second, first, second, first]


def test_without_rounds_nothing_is_measured(
    make: Callable[..., JobSpec], task: EncodedTask, tmp_path: Path, run: Run
) -> None:
    scorer = FakeScorer()
    result, _ = run(make(0), task, tmp_path, scorer)
    assert result == (PLAN, ENERGIES, None)
    assert not scorer.asked
    assert not (tmp_path / FILE).exists()


def test_a_genome_that_cannot_be_measured_fails_the_job_and_says_what_to_do(
    make: Callable[..., JobSpec], task: EncodedTask, tmp_path: Path, run: Run
) -> None:
    with pytest.raises(ScoringError, match="reweighing failed: no memory; effort quick does without it"):
        run(make(1), task, tmp_path, FakeScorer("no memory"))


@pytest.mark.parametrize(
    ("holds_to", "share"), [(0.0, 0.14), (0.28, 0.31), (0.38, 0.42), (0.58, 0.6), (1.0, 0.6)]
)
def test_where_the_smallest_model_is_wanted_the_smallest_seed_that_holds_is_measured(
    make: Callable[..., JobSpec], task: EncodedTask, tmp_path: Path, holds_to: float, share: float, run: Run
) -> None:
    scorer = DroppingScorer(holds_to)
    run(make(1), task, tmp_path, scorer, replace(PLAN, objective=MaxDrop(points=2.0)))
    assert scorer.asked[0][0] == lagrangian(SPACE, ENERGIES, share)
    assert len(scorer.scored) <= 4  # of ten seeds


def test_and_from_there_on_rounds_go_down_where_one_holds_and_else_up(
    make: Callable[..., JobSpec], task: EncodedTask, tmp_path: Path, run: Run
) -> None:
    scorer = DroppingScorer(holds_to=0.28)
    smallest = replace(PLAN, objective=MaxDrop(points=2.0))
    (plan, _, share), log = run(make(6), task, tmp_path, scorer, smallest)
    sizes = [one["share"] for one in read_json(tmp_path / FILE)]
    held = [event["drop_bound"] == 1.5 for _, event in log.events]
    assert {event["drop_points"] for _, event in log.events} == {1.0}
    assert sizes[0] == 0.31
    assert plan.seeds == (lagrangian(SPACE, ENERGIES, 0.31),)
    assert [*sizes[1:], share] == [next_stair(sizes[: n + 1], held=one) for n, one in enumerate(held)]
    assert {True, False} == set(held)
    looks = len(scorer.scored)
    again = DroppingScorer(holds_to=0.28)
    result, _ = run(make(6), task, tmp_path, again, smallest)
    assert (result[0], result[2]) == (plan, share)
    assert not again.asked
    assert not again.scored
    assert looks <= 4


def test_where_rounds_do_not_tell_what_is_lost_they_stay(
    make: Callable[..., JobSpec], tiny_job: dict[str, Any], task: EncodedTask, tmp_path: Path, run: Run
) -> None:
    scorer = DroppingScorer(holds_to=0.28)
    tiny_job["task"] |= {"kind": "generate", "choices": None, "max_new_tokens": 4}
    (*_, share), log = run(make(3), task, tmp_path, scorer, replace(PLAN, objective=MaxDrop(points=2.0)))
    assert [one["share"] for one in read_json(tmp_path / FILE)] == [0.31] * 3
    assert [(event["drop_points"], event["drop_bound"]) for _, event in log.events] == [(None, None)] * 3
    assert share is None


def test_rounds_of_another_version_are_refused(
    make: Callable[..., JobSpec], task: EncodedTask, tmp_path: Path, run: Run
) -> None:
    write_json(tmp_path / FILE, {"share": 0.4, "rounds": [[1.0] * 4]})
    with pytest.raises(ConflictError, match=r"weights\.json is of another version; submit the job again"):
        run(make(2), task, tmp_path, FakeScorer())
