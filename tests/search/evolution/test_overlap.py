"""Overlapped generations: a run is a function of its seed, whoever scores it, how fast, and however often it dies."""

import json
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ranksieve.search.evolution.evolution import Evolution
from ranksieve.search.evolution.outcome import Outcome, Trial
from ranksieve.search.evolution.record import GenerationRecord
from ranksieve.search.evolution.settings import SearchSettings
from ranksieve.search.space.objectives import MaxDrop, Objective, Pareto, TargetParams

SETTINGS = SearchSettings(
    population=5,
    offspring=7,
    full=32,
    generations=7,
    max_evaluations=90,
    patience=6,
)
OBJECTIVES = [
    MaxDrop(points=2.0),
    TargetParams(share=0.4),
    Pareto(smallest=0.2, largest=0.8, sizes=5, finalists=4, points=2.0),
]
OVERLAPS = [1, 2, 3]


class Run:
    """A search and scorers that finish in an order of their own.

    Args:
        problem: What is searched; `kill_at` generations the process dies once and everything not saved is lost.
        scorers: How many trials are scored at once.
        order: Draws which of them is done next.
    """

    def __init__(
        self, problem, objective: Objective, search: SearchSettings, *, scorers: int, order: Random
    ) -> None:
        self.problem, self.objective, self.search = problem, objective, search
        self.scorers, self.order = scorers, order
        self.evolution = Evolution(problem.space, problem.energies, objective, search)
        self.records: list[GenerationRecord] = []
        self.busiest = 0

    def until(self, records: int) -> "Run":
        """Goes on until so many generations are saved, or to the end."""
        running: list[Trial] = []
        self._save(records)
        while not self.evolution.finished and len(self.records) < records:
            running += self.evolution.ask(self.scorers - len(running))
            self.busiest = max(self.busiest, len(running))
            done = running.pop(self.order.randrange(len(running)))
            self.evolution.tell(self.problem.score([done]))
            self._save(records)
        return self

    def _save(self, records: int) -> None:
        while len(self.records) < records and (record := self.evolution.retire()) is not None:
            self.records.append(record)
            self.saved = json.dumps(self.evolution.state())

    def die_and_resume(self) -> None:
        outcomes = [outcome for record in self.records for outcome in record.outcomes]
        memo = [Outcome.from_json(json.loads(json.dumps(outcome.to_json()))) for outcome in outcomes]
        self.evolution = Evolution(
            self.problem.space,
            self.problem.energies,
            self.objective,
            self.search,
            memo=memo,
            state=json.loads(self.saved),
        )

    @property
    def result(self) -> tuple[object, ...]:
        evolution = self.evolution
        return self.records, evolution.finalists(), evolution.front(), json.dumps(evolution.state())


@pytest.fixture(scope="module")
def expected():
    """What a single scorer finds, by objective and overlap."""
    known = {}

    def find(problem, objective: Objective, overlap: int) -> tuple[object, ...]:
        if (objective, overlap) not in known:
            search = replace(SETTINGS, overlap=overlap)
            run = Run(problem, objective, search, scorers=1, order=Random(0))
            known[objective, overlap] = run.until(1000).result
        return known[objective, overlap]

    return find


@settings(max_examples=30)
@given(
    objective=st.sampled_from(OBJECTIVES),
    overlap=st.sampled_from(OVERLAPS),
    scorers=st.integers(1, 40),
    order=st.integers(0, 2**32),
)
def test_the_order_of_outcomes_changes_nothing(
    make_problem, expected, objective: Objective, overlap: int, scorers: int, order: int
) -> None:
    problem = make_problem(layers=2, sublayers=True)
    search = replace(SETTINGS, overlap=overlap)
    run = Run(problem, objective, search, scorers=scorers, order=Random(order)).until(1000)
    assert run.result == expected(make_problem(layers=2, sublayers=True), objective, overlap)
    assert len(problem.calls) == len(set(problem.calls)) == run.evolution.evaluations


@settings(max_examples=30)
@given(
    objective=st.sampled_from(OBJECTIVES),
    overlap=st.sampled_from(OVERLAPS),
    scorers=st.integers(1, 40),
    deaths=st.lists(st.integers(1, 8), max_size=4).map(sorted),
    order=st.integers(0, 2**32),
)
def test_a_resumed_search_ends_like_an_undisturbed_one(
    make_problem, expected, objective: Objective, overlap: int, scorers: int, deaths: list[int], order: int
) -> None:
    run = Run(
        make_problem(layers=2, sublayers=True),
        objective,
        replace(SETTINGS, overlap=overlap),
        scorers=scorers,
        order=Random(order),
    )
    for saved in deaths:
        run.until(saved).die_and_resume()
    assert run.until(1000).result == expected(make_problem(layers=2, sublayers=True), objective, overlap)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("overlap", OVERLAPS)
def test_resuming_after_every_generation_changes_nothing(
    make_problem, expected, objective: Objective, overlap: int
) -> None:
    run = Run(
        make_problem(layers=2, sublayers=True),
        objective,
        replace(SETTINGS, overlap=overlap),
        scorers=3,
        order=Random(1),
    )
    while not run.evolution.finished:
        run.until(len(run.records) + 1).die_and_resume()
    assert run.result == expected(make_problem(layers=2, sublayers=True), objective, overlap)
    assert len(run.records) > overlap + 1


@pytest.mark.parametrize("overlap", OVERLAPS)
def test_overlap_keeps_more_scorers_busy(make_problem, overlap: int) -> None:
    search = replace(SETTINGS, overlap=overlap)
    run = Run(make_problem(), TargetParams(share=0.4), search, scorers=100, order=Random(0)).until(1000)
    assert run.busiest == overlap * SETTINGS.offspring
    assert max(record.generation for record in run.records) > overlap


def test_generations_are_retired_in_order(make_problem) -> None:
    search = replace(SETTINGS, overlap=3)
    run = Run(make_problem(), TargetParams(share=0.4), search, scorers=30, order=Random(0)).until(1000)
    assert [record.generation for record in run.records] == list(range(len(run.records)))
    sums = [sum(len(record.outcomes) for record in run.records[: i + 1]) for i in range(len(run.records))]
    assert [record.evaluations for record in run.records] == sums


def test_a_generation_knows_what_was_retired_when_it_was_bred_and_no_more(make_problem) -> None:
    """With overlap 3, generations 1 to 3 are bred from the seeds alone; 4 is bred when 1 is retired."""

    def candidates(problem) -> list[list[object]]:
        search = replace(SETTINGS, overlap=3, generations=4)
        run = Run(problem, TargetParams(share=0.4), search, scorers=1, order=Random(0)).until(1000)
        return [[outcome.genome for outcome in record.outcomes] for record in run.records]

    problem, worse = make_problem(), make_problem()
    expected = candidates(problem)
    worse.fails = lambda trial: "broken" if trial.genome in expected[1] else None
    found = candidates(worse)
    assert [set(genomes) for genomes in found[:4]] == [set(genomes) for genomes in expected[:4]]
    assert set(found[4]) != set(expected[4])


def test_the_last_generations_are_finished_not_thrown_away(make_problem) -> None:
    problem = make_problem(distortion=0.0)
    search = replace(SETTINGS, overlap=3, generations=500, max_evaluations=5000, patience=2)
    run = Run(problem, TargetParams(share=0.5), search, scorers=20, order=Random(0)).until(1000)
    assert run.evolution.evaluations == len(problem.calls)
    assert run.evolution.tokens == sum(trial.examples for trial in problem.calls)
    assert run.evolution.generation < 100
