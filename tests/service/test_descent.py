"""Rounds of descent over a fake scorer: where each begins, what is kept, what a job that goes on repeats."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from search.confirmation import DropInterval
from search.errors import ConflictError, ScoringError
from search.matrix import MatrixShape
from search.objectives import MaxDrop, Pareto, TargetParams
from search.schedules import SEED_SHARES
from search.seeds import family, lagrangian
from search.settings import SearchSettings
from search.sizes import Sizes
from search.space import Genome, SearchSpace
from service.descent import (
    DESCENT_EXAMPLES,
    FILE,
    STEPS_DOWN,
    WORTHWHILE_NATS,
    Round,
    descended,
    starts_of,
    walk,
)
from service.events import EventType
from service.files import read_json, write_json
from service.scoring import Candidate
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
SMALLEST = replace(PLAN, objective=MaxDrop(points=2.0))


class FakeScorer:
    """A loss that falls where the first matrix grows and the second one shrinks, always.

    Args:
        failure: Why nothing can be measured.
        gains: By how much it falls in each round; afterwards, as ever, by 0.9 nats.
        holds_to: The smallest share that loses little enough, before each round and after the last.
    """

    def __init__(
        self, failure: str | None = None, gains: Sequence[float] = (), holds_to: Sequence[float] = (0.0,)
    ) -> None:
        self.asked: list[tuple[Genome, range, int]] = []
        self._failure, self._gains, self._holds_to = failure, list(gains), holds_to

    def score_candidates(self, candidates: Sequence[Candidate], split: str) -> list[float]:
        assert split == "search"
        return [SPACE.kept_share(candidate.genome) for candidate in candidates]

    def drop(self, share: float, split: str, confidence: float, seed: int) -> DropInterval:
        holds_to = self._holds_to[min(len(self.asked), len(self._holds_to) - 1)]
        points = 1.0 if share >= holds_to else 5.0
        return DropInterval(estimate=points, low=points, high=points, upper=points, confidence=confidence)

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
    assert plan == replace(PLAN, starts=plan.starts)
    assert plan.starts[0.4] == after[2]
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


def test_rounds_of_another_version_are_refused(
    make: Callable[[int | None], JobSpec], tmp_path: Path, run: Run
) -> None:
    write_json(tmp_path / FILE, {"share": 0.4, "genomes": [START], "expected_nats": []})
    with pytest.raises(ConflictError, match=r"descent\.json is of another version; submit the job again"):
        run(make(2), tmp_path, FakeScorer())


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
    assert plan.starts[0.4] == (START[0] + 2, START[1] - 2, *START[2:])  # it is taken for what it is worth
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


def test_where_the_smallest_model_is_wanted_it_goes_down_while_that_holds(
    make: Callable[[int | None], JobSpec], tmp_path: Path, run: Run
) -> None:
    scorer = FakeScorer(gains=[0.5 * WORTHWHILE_NATS] * 20, holds_to=[0.41, 0.33])
    plan, _ = run(make(20), tmp_path, scorer, plan=SMALLEST)
    rounds = [Round.from_json(saved) for saved in read_json(tmp_path / FILE)]
    starts = [genome for genome, _, _ in scorer.asked]
    seeds = {share: lagrangian(SPACE, ENERGIES, share) for share in SEED_SHARES}
    assert rounds[0].share == min(share for share, seed in seeds.items() if SPACE.kept_share(seed) >= 0.41)
    assert starts[0] == seeds[rounds[0].share]
    for before, after, start in zip(rounds, rounds[1:], starts[1:], strict=False):
        assert round(before.share - after.share, 6) in STEPS_DOWN
        assert SPACE.kept_share(start) >= 0.33
        assert max(abs(np.subtract(start, starts[rounds.index(before)]))) <= 1  # a rung
    assert len(rounds) > 3
    assert plan.starts == starts_of(rounds)
    genome_of = family(SPACE, ENERGIES, plan.starts)
    assert all(SPACE.kept_share(genome_of(rounds[-1].share - step)) < 0.33 for step in STEPS_DOWN)
    again = FakeScorer(holds_to=[0.33])
    assert run(make(20), tmp_path, again, plan=SMALLEST)[0] == plan
    assert not again.asked


def test_where_nothing_smaller_holds_it_stays_until_little_is_promised(
    make: Callable[[int | None], JobSpec], tmp_path: Path, run: Run
) -> None:
    scorer = FakeScorer(gains=[0.9, 0.9, 0.5 * WORTHWHILE_NATS], holds_to=[0.41, 0.9])
    run(make(5), tmp_path, scorer, plan=SMALLEST)
    sizes = [Round.from_json(saved).share for saved in read_json(tmp_path / FILE)]
    assert sizes == [sizes[0]] * 3


def test_where_many_sizes_are_wanted_it_walks_from_their_middle_to_the_smallest(
    make: Callable[[int | None], JobSpec], tmp_path: Path, run: Run
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
        Round(share=0.4, steps=1, expected_nats=-0.1, ladder=((0.4, one), (0.39, two))),
        Round(share=0.39, steps=1, expected_nats=-0.1, ladder=((0.39, three), (0.38, one))),
    ]
    assert starts_of(rounds) == {0.4: one, 0.39: three, 0.38: one}


@pytest.mark.parametrize("objective", [{"kind": "max_drop"}, {"kind": "pareto"}])
def test_rounds_that_nobody_gave(tiny_job: dict[str, Any], objective: dict[str, Any]) -> None:
    document = {**tiny_job, "objective": objective}
    assert JobSpec.model_validate(document).descent_rounds == 5
    document["search"] = {**tiny_job["search"], "descent_rounds": 3}
    assert JobSpec.model_validate(document).descent_rounds == 3
