"""Rounds of descent over a fake scorer: where each begins, what is kept, what a job that goes on repeats."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from tuning import tune

from ranksieve.search.errors import ConflictError, ScoringError
from ranksieve.search.evolution.schedules import SEED_SHARES
from ranksieve.search.evolution.settings import SearchSettings
from ranksieve.search.space.matrix import MatrixShape
from ranksieve.search.space.objectives import MaxDrop, Pareto, TargetParams
from ranksieve.search.space.sizes import Sizes
from ranksieve.search.space.space import Genome, SearchSpace
from ranksieve.search.start.seeds import lagrangian
from ranksieve.search.statistics.intervals import DropInterval
from ranksieve.service.job.events import EventType
from ranksieve.service.job.files import read_json, write_json
from ranksieve.service.pipeline.rounds.descent import (
    FILE,
    UPWARD,
    WORTHWHILE_NATS,
    Round,
    descended,
    starts_of,
    walk,
)
from ranksieve.service.pipeline.rounds.records import DESCENT_EXAMPLES, next_stair
from ranksieve.service.pipeline.scoring import Candidate
from ranksieve.service.pipeline.search_plan import SearchPlan
from ranksieve.service.spec import JobSpec
from ranksieve.workers.factors.propagation import MOST_EXAMPLES
from ranksieve.workers.types.scores import Failure, LossSlopes

SPACE = SearchSpace(
    [MatrixShape(name=f"m{i}", out_features=64, in_features=64, layer=i, kind="m") for i in range(4)], 2
)
ENERGIES = [10 / np.arange(1, 65, dtype=np.float64)] * 4
Run = Callable[..., tuple[Any, Any]]

PLAN = SearchPlan(space=SPACE, objective=TargetParams(share=0.4), settings=SearchSettings())
START = lagrangian(SPACE, ENERGIES, 0.4)
SMALLEST = replace(PLAN, objective=MaxDrop(points=2.0))
WRITTEN = {"kind": "generate", "choices": None, "max_new_tokens": 4}


class FakeScorer:
    """A loss that falls where the first matrix grows and the second one shrinks, always.

    Args:
        failure: Why nothing can be measured.
        gains: By how much it falls in each round; afterwards, as ever, by 0.9 nats.
        holds_to: The smallest share that loses little enough, before the first round and afterwards.
    """

    def __init__(
        self,
        failure: str | None = None,
        gains: Sequence[float] = (),
        holds_to: tuple[float, float] = (0.0, 0.0),
    ) -> None:
        self.asked: list[tuple[Genome, range, int]] = []
        self.looked_at: set[Genome] = set()
        self._failure, self._gains, self._holds_to = failure, list(gains), holds_to

    def score_candidates(self, candidates: Sequence[Candidate], split: str) -> list[float]:
        assert split == "search"
        self.looked_at |= {candidate.genome for candidate in candidates}
        return [SPACE.kept_share(candidate.genome) for candidate in candidates]

    def drop(self, share: float, split: str, confidence: float, seed: int) -> DropInterval:
        upper = 1.5 if share >= self._holds_to[bool(self.asked)] else 5.0
        return DropInterval(estimate=1.0, low=0.5, high=upper, upper=upper, confidence=confidence)

    def drop_of(self, slopes: LossSlopes, examples: range, confidence: float) -> DropInterval:
        genome, asked, _ = self.asked[-1]
        assert len(slopes.kept) == len(examples) == len(asked)
        return self.drop(SPACE.kept_share(genome), "calibration", confidence, seed=0)

    def measure_slopes(self, genome: Genome, examples: range, window: int) -> LossSlopes | Failure:
        self.asked.append((genome, examples, window))
        if self._failure is not None:
            return Failure(reason=self._failure)
        rank = np.array(SPACE.ranks(genome))
        kept, cut = np.tile([-1.0, -0.1, -1.0, -1.0], (len(examples), 1)), np.zeros((len(examples), 4))
        cut[:, 0] = -1.0
        scale = self._gains.pop(0) / 0.9 if self._gains else 1.0
        return LossSlopes(
            start=rank - window,
            rank=rank,
            stop=rank + window,
            kept=scale * kept,
            cut=scale * cut,
            quality=np.ones(len(examples)),
            dense_quality=np.ones(len(examples)),
        )


@pytest.fixture
def make(tiny_job: dict[str, Any]) -> Callable[..., JobSpec]:
    def spec(rounds: int | None, **changes: dict[str, Any]) -> JobSpec:
        tiny_job["policy"]["descent_rounds"] = rounds
        for part, fields in changes.items():
            tiny_job[part] |= fields
        return JobSpec.model_validate(tune(tiny_job))

    return spec


@pytest.fixture
def run(make_log: Callable[[Path, str], Any]) -> Run:
    def descend(
        spec: JobSpec,
        directory: Path,
        scorer: FakeScorer,
        calibration: int = 100,
        plan: SearchPlan = PLAN,
        begin: float | None = None,
    ) -> tuple[SearchPlan, Any]:
        log, made = make_log(directory, "descend"), cast("Any", scorer)
        made.space, made.task = plan.space, SimpleNamespace(splits={"calibration": range(calibration)})
        return descended(spec, plan, ENERGIES, begin, made, log), log

    return descend


def test_each_round_begins_where_the_one_before_ended(
    make: Callable[..., JobSpec], tmp_path: Path, run: Run
) -> None:
    scorer = FakeScorer()
    plan, log = run(make(2), tmp_path, scorer)
    after = [(START[0] + n, START[1] - n, *START[2:]) for n in range(3)]
    assert scorer.asked == [(genome, range(100), 2) for genome in after[:2]]
    assert plan == replace(PLAN, starts=plan.starts)
    assert plan.starts[0.4] == after[2]
    assert [type for type, _ in log.events] == [EventType.GENOME_DESCENDED] * 2
    assert log.events[1][1] == {
        "round": 2,
        "kept_share": SPACE.kept_share(after[2]),
        "steps": 2,
        "expected_nats": pytest.approx(-0.9),
        "drop_points": 1.0,
        "drop_bound": 1.5,
    }


def test_a_job_that_goes_on_repeats_no_round_and_ends_with_the_same(
    make: Callable[..., JobSpec], tmp_path: Path, run: Run
) -> None:
    expected, _ = run(make(3), tmp_path / "whole", FakeScorer())
    run(make(2), tmp_path / "cut", FakeScorer())
    scorer = FakeScorer()
    plan, log = run(make(3), tmp_path / "cut", scorer)
    assert len(scorer.asked) == 1
    assert log.reports == [(2, 3), (3, 3)]
    assert plan == expected


def test_of_more_rounds_than_are_wanted_by_now_all_count(
    make: Callable[..., JobSpec], tmp_path: Path, run: Run
) -> None:
    expected, _ = run(make(2), tmp_path, FakeScorer())
    plan, log = run(make(1), tmp_path, FakeScorer())
    assert plan == expected
    assert not log.events


def test_rounds_of_another_version_are_refused(
    make: Callable[..., JobSpec], tmp_path: Path, run: Run
) -> None:
    write_json(tmp_path / FILE, {"share": 0.4, "genomes": [START], "expected_nats": []})
    with pytest.raises(ConflictError, match=r"descent\.json is of another version; submit the job again"):
        run(make(2), tmp_path, FakeScorer())


def test_rounds_go_round_a_large_calibration_split(
    make: Callable[..., JobSpec], tmp_path: Path, run: Run
) -> None:
    scorer = FakeScorer()
    begin, middle, end = (MOST_EXAMPLES + number * DESCENT_EXAMPLES for number in range(3))
    run(make(3), tmp_path, scorer, calibration=end + 5)
    first, second = range(begin, middle), range(middle, end)  # errors were propagated on those before
    assert [examples for _, examples, _ in scorer.asked] == [first, second, first]


def test_a_round_that_promises_little_is_the_last(
    make: Callable[..., JobSpec], tmp_path: Path, run: Run
) -> None:
    scorer = FakeScorer(gains=[1.1 * WORTHWHILE_NATS, 0.9 * WORTHWHILE_NATS])
    plan, log = run(make(5), tmp_path, scorer)
    assert plan.starts[0.4] == (START[0] + 2, START[1] - 2, *START[2:])  # it is taken for what it is worth
    assert len(log.events) == len(scorer.asked) == 2
    assert log.reports == [(0, 5), (1, 5), (2, 5), (2, 2)]
    again = FakeScorer()
    assert run(make(5), tmp_path, again)[0] == plan
    assert not again.asked


def test_without_rounds_nothing_is_measured(make: Callable[..., JobSpec], tmp_path: Path, run: Run) -> None:
    scorer = FakeScorer()
    plan, _ = run(make(0), tmp_path, scorer)
    assert plan == PLAN
    assert not scorer.asked
    assert not (tmp_path / FILE).exists()


def test_a_genome_that_cannot_be_measured_fails_the_job_and_says_what_to_do(
    make: Callable[..., JobSpec], tmp_path: Path, run: Run
) -> None:
    with pytest.raises(ScoringError, match="descent failed: no memory; effort quick does without it"):
        run(make(1), tmp_path, FakeScorer("no memory"))


def stairs(rounds: Sequence[Round], held: Sequence[bool]) -> list[float]:
    """The sizes after the first: down where it holds, else up; a fourth of them up at last."""
    sizes = [one.share for one in rounds]
    below = len(rounds) - len(rounds) // 4
    found = [next_stair(sizes[: n + 1], held=one) for n, one in enumerate(held[: below - 1])]
    return found + [pytest.approx(sizes[n - 1] + UPWARD) for n in range(below, len(rounds))]


def test_where_the_smallest_model_is_wanted_it_goes_down_where_that_holds_and_else_up(
    make: Callable[..., JobSpec], tmp_path: Path, run: Run
) -> None:
    scorer = FakeScorer(gains=[2 * WORTHWHILE_NATS] * 12, holds_to=(0.41, 0.45))
    plan, log = run(make(12), tmp_path, scorer, plan=SMALLEST)
    rounds = [Round.from_json(saved) for saved in read_json(tmp_path / FILE)]
    starts = [genome for genome, _, _ in scorer.asked]
    seeds = {share: lagrangian(SPACE, ENERGIES, share) for share in SEED_SHARES}
    assert rounds[0].share == min(share for share, seed in seeds.items() if SPACE.kept_share(seed) >= 0.41)
    assert starts[0] == seeds[rounds[0].share]
    held = [SPACE.kept_share(start) >= 0.45 for start in starts]
    assert [one.share for one in rounds[1:]] == stairs(rounds, held)
    assert {True, False} == set(held[-6:-3])  # it has come to where that changes
    assert [event["drop_points"] for _, event in log.events] == [1.0] * 12
    assert [event["drop_bound"] for _, event in log.events] == [1.5 if one else 5.0 for one in held]
    assert scorer.looked_at <= set(seeds.values())  # the search split is left alone afterwards
    assert plan.starts == starts_of(rounds)
    again = FakeScorer()
    assert run(make(12), tmp_path, again, plan=SMALLEST)[0] == plan
    assert not again.asked


def test_of_stairs_that_promise_little_twice_in_a_row_only_those_up_are_left(
    make: Callable[..., JobSpec], tmp_path: Path, run: Run
) -> None:
    little, much = 0.5 * WORTHWHILE_NATS, 2 * WORTHWHILE_NATS
    scorer = FakeScorer(gains=[little, much, little, little, much, little, much])
    _, log = run(make(8), tmp_path, scorer, plan=SMALLEST, begin=0.5)
    sizes = [Round.from_json(saved).share for saved in read_json(tmp_path / FILE)]
    assert sizes == [0.5, 0.47, 0.44, 0.41, 0.43, 0.45]
    assert log.reports[-2:] == [(6, 8), (6, 6)]
    again = FakeScorer()
    run(make(8), tmp_path, again, plan=SMALLEST, begin=0.5)
    assert not again.asked


def test_it_begins_where_reweighing_has_led(make: Callable[..., JobSpec], tmp_path: Path, run: Run) -> None:
    scorer = FakeScorer(holds_to=(0.41, 0.0))
    run(make(2), tmp_path, scorer, plan=SMALLEST, begin=0.47)
    sizes = [Round.from_json(saved).share for saved in read_json(tmp_path / FILE)]
    assert sizes == [0.47, 0.44]
    assert not scorer.looked_at


def test_where_a_round_does_not_tell_what_is_lost_the_search_split_does(
    make: Callable[..., JobSpec], tmp_path: Path, run: Run
) -> None:
    scorer = FakeScorer(gains=[2 * WORTHWHILE_NATS] * 8, holds_to=(0.41, 0.45))
    run(make(8, task=WRITTEN), tmp_path, scorer, plan=SMALLEST)
    rounds = [Round.from_json(saved) for saved in read_json(tmp_path / FILE)]
    held = [SPACE.kept_share(one.genome) >= 0.45 for one in rounds]
    assert [one.share for one in rounds[1:]] == stairs(rounds, held)
    assert {True, False} == set(held)
    assert scorer.looked_at >= {one.genome for one in rounds[:5]}  # the last two go up
    assert [(one.drop_points, one.drop_bound) for one in rounds] == [(None, None)] * 8


def test_where_many_sizes_are_wanted_it_walks_from_their_middle_to_the_smallest(
    make: Callable[..., JobSpec], tmp_path: Path, run: Run
) -> None:
    front = Pareto(smallest=0.2, largest=0.8, sizes=13, finalists=3, points=2.0)
    scorer = FakeScorer(gains=[0.5 * WORTHWHILE_NATS] * 5)
    plan, log = run(make(5), tmp_path, scorer, plan=replace(PLAN, objective=front))
    sizes = [0.4, 0.35, 0.3, 0.25, 0.2]
    assert [SPACE.kept_share(genome) for genome, _, _ in scorer.asked] == pytest.approx(sizes, abs=0.02)
    assert len(log.events) == 5
    assert all(any(abs(start - size) < 1e-9 for start in plan.starts) for size in sizes)
    *_, (last, _, _) = scorer.asked
    assert plan.starts[0.2] == (last[0] + 1, last[1] - 1, *last[2:])
    again = FakeScorer()
    assert run(make(5), tmp_path, again, plan=replace(PLAN, objective=front))[0] == plan
    assert not again.asked


def test_more_rounds_than_sizes_stay_longer_at_each() -> None:
    front = Sizes(SPACE, Pareto(smallest=0.2, largest=0.45, sizes=6, finalists=3, points=2.0))
    assert walk(front, 1) == pytest.approx([0.3])
    assert walk(front, 3) == pytest.approx([0.3, 0.25, 0.2])
    assert walk(front, 6) == pytest.approx([0.3, 0.3, 0.25, 0.25, 0.2, 0.2])


def test_of_two_ways_to_a_size_the_last_one_counts() -> None:
    one, two, three = ((level, *START[1:]) for level in (1, 2, 3))
    rounds = [
        Round(share=size, steps=1, expected_nats=-0.1, ladder=ladder, drop_points=None, drop_bound=None)
        for size, ladder in ((0.4, ((0.4, one), (0.39, two))), (0.39, ((0.39, three), (0.38, one))))
    ]
    assert starts_of(rounds) == {0.4: one, 0.39: three, 0.38: one}
