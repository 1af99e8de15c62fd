"""The search over all sizes at once: its front, what it is worth, and what it may cost."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from ranksieve.search.errors import InputError, ScoringError
from ranksieve.search.evolution.evolution import Evolution
from ranksieve.search.evolution.outcome import Outcome
from ranksieve.search.evolution.settings import SearchSettings
from ranksieve.search.space.objectives import Pareto
from ranksieve.search.space.sizes import Sizes
from ranksieve.search.start.seeds import lagrangian

OBJECTIVE = Pareto(smallest=0.2, largest=0.8, sizes=7, finalists=4, points=2.0)
SIZES = [0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8]
SETTINGS = SearchSettings(
    population=8,
    offspring=12,
    full=32,
    generations=10,
    max_evaluations=300,
    patience=6,
)


def run(problem, objective: Pareto = OBJECTIVE, search: SearchSettings = SETTINGS, **options) -> Evolution:
    evolution = Evolution(problem.space, problem.energies, objective, search, **options)
    while not evolution.finished:
        evolution.tell(problem.score(evolution.ask()))
        while evolution.retire() is not None:
            pass
    return evolution


def outcomes_of(problem) -> list[Outcome]:
    """What was scored."""
    return [one for one in replace(problem, calls=[]).score(problem.calls) if one.failure is None]


@settings(max_examples=15)
@given(
    seed=st.integers(0, 2**32 - 1),
    problem_seed=st.integers(0, 50),
    overlap=st.integers(1, 3),
    broken=st.integers(2, 9),
)
def test_nothing_that_was_scored_beats_a_point_of_the_front(
    make_problem, seed: int, problem_seed: int, overlap: int, broken: int
) -> None:
    problem = make_problem(layers=2, seed=problem_seed)
    problem.fails = lambda trial: "broken" if sum(trial.genome) % broken == 1 else None
    try:
        evolution = run(problem, search=replace(SETTINGS, seed=seed, overlap=overlap, generations=4))
    except ScoringError:
        reject()  # every seed is broken: there is no front
    front, space = evolution.front(), problem.space
    assert front
    sizes = [space.cost(point.genome) for point in front]
    losses = [point.fitness for point in front]
    assert sizes == sorted(set(sizes))
    assert losses == sorted(set(losses), reverse=True)
    for outcome in outcomes_of(problem):
        better = [
            point
            for point, size in zip(front, sizes, strict=True)
            if size <= space.cost(outcome.genome) and point.fitness <= outcome.fitness
        ]
        assert better  # a point of the front, perhaps itself
    archived = evolution._memo.front()
    assert [(space.cost(one.genome), one.fitness) for one in archived] == list(
        zip(sizes, losses, strict=True)
    )


def test_the_search_beats_its_seeds_at_every_size(make_problem) -> None:
    gained = [_gains(make_problem(layers=4, seed=seed)) for seed in range(3)]
    assert min(map(min, gained)) >= 0
    # a third of what knowing the hidden weights would bring, on average over sizes and problems
    assert np.mean(gained) > 1 / 3


def _gains(problem) -> list[float]:
    """The part of the gap between seeds and the best genomes that a search closes, by size."""
    evolution = run(problem, search=replace(SETTINGS, generations=30, max_evaluations=1000, patience=30))

    def losses(energies) -> list[float]:
        return [problem.kl_nats(lagrangian(problem.space, energies, share)) for share in SIZES]

    found = [
        min(
            problem.kl_nats(one.genome)
            for one in evolution.front()
            if problem.space.cost_share(one.genome) <= share
        )
        for share in SIZES
    ]
    seeds, ideal = losses(problem.energies), losses(problem.true_energies)
    return [(seed - loss) / (seed - best) for seed, loss, best in zip(seeds, found, ideal, strict=True)]


def test_all_sizes_are_searched_and_no_others(make_problem) -> None:
    problem = make_problem(layers=4)
    evolution = run(problem)
    shares = [problem.space.cost_share(trial.genome) for trial in problem.calls]
    assert max(shares) <= 0.8
    assert min(shares) > 0.18  # a step below the least
    places = [min(place for place, size in enumerate(SIZES) if share <= size) for share in shares]
    assert {place for place, share in zip(places, shares, strict=True) if SIZES[place] - share < 0.01} == set(
        range(7)
    )
    kept = [problem.space.kept_share(point.genome) for point in evolution.front()]
    assert len(kept) >= 7
    assert kept[0] == pytest.approx(0.2, abs=0.02)
    assert kept[-1] == pytest.approx(0.8, abs=0.02)


def test_finalists_are_spread_over_the_front(make_problem) -> None:
    problem = make_problem(layers=4)
    evolution = run(problem)
    genomes = [one.genome for one in evolution.finalists()]
    shares = [problem.space.kept_share(genome) for genome in genomes]
    assert len(shares) == 4
    assert shares == sorted(shares, reverse=True)
    gaps = [before - after for before, after in pairwise(shares)]
    assert max(gaps) < 0.3
    sizes = Sizes(problem.space, OBJECTIVE)
    assert [sizes.place(genome) for genome in genomes[:: len(shares) - 1]] == [6, 0]


def test_the_incumbent_is_the_smallest_that_loses_little_enough(make_problem) -> None:
    problem = make_problem(layers=4)
    problem.points_per_nat = 2.0 / problem.kl_nats(lagrangian(problem.space, problem.energies, 0.5))
    evolution = run(problem)
    assert evolution.incumbent.drop_points <= 2.0
    place = Sizes(problem.space, OBJECTIVE).place
    held = place(evolution.incumbent.genome)
    smaller = [point for point in evolution.front() if place(point.genome) < held]
    assert smaller
    assert all(point.drop_points > 2.0 for point in smaller)


def test_where_nothing_loses_little_enough_the_incumbent_is_the_largest_of_the_front(make_problem) -> None:
    problem = make_problem(layers=2)
    problem.points_per_nat = 1e6
    evolution = Evolution(problem.space, problem.energies, OBJECTIVE, SETTINGS)
    evolution.tell(problem.score(evolution.ask()))
    record = evolution.retire()
    assert record is not None
    assert not record.accepted
    assert evolution.incumbent.genome == evolution.front()[-1].genome
    assert len(evolution.front()) > 1


def test_the_users_genomes_are_brought_between_the_ends(make_problem) -> None:
    problem = make_problem(layers=2)
    space = problem.space
    inside = lagrangian(space, problem.true_energies, 0.47)  # between two sizes, and left there
    evolution = Evolution(
        space,
        problem.energies,
        OBJECTIVE,
        SETTINGS,
        seeds=[inside, space.largest_genome, space.smallest_genome],
    )
    trials = evolution.ask()
    assert inside in [trial.genome for trial in trials]
    assert all(0.18 < space.cost_share(trial.genome) <= 0.8 for trial in trials)
    assert len(trials) > len(SIZES)


def test_a_front_that_gains_nothing_ends_the_search(make_problem) -> None:
    problem = make_problem(layers=2, distortion=0.0)
    search = replace(SETTINGS, generations=1000, max_evaluations=100_000, patience=3)
    assert run(problem, search=search).generation < 200


def test_a_front_that_gets_to_smaller_sizes_does_not_end(make_problem) -> None:
    """All seeds but the largest fail: every smaller point that is found loses more than what was scored before."""
    problem = make_problem(layers=2)
    broken = {lagrangian(problem.space, problem.energies, share) for share in SIZES[:-1]}
    problem.fails = lambda trial: "broken" if trial.genome in broken else None
    evolution = run(problem, search=replace(SETTINGS, overlap=1, generations=100, max_evaluations=10_000))
    sizes = Sizes(problem.space, OBJECTIVE)
    assert {sizes.place(point.genome) for point in evolution.front()} == set(range(len(SIZES)))


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"smallest": 0.8}, "objective.smallest"),
        ({"smallest": 0.0}, "objective.smallest"),
        ({"largest": 1.1}, "objective.smallest"),
        ({"sizes": 1}, "objective.sizes"),
        ({"finalists": 0}, "objective.finalists"),
        ({"points": -1.0}, "objective.points"),
    ],
)
def test_what_cannot_be_wanted_is_refused(wrong: dict[str, float], field: str) -> None:
    with pytest.raises(InputError) as raised:
        replace(OBJECTIVE, **wrong)
    assert raised.value.field == field


def test_of_twins_the_one_that_costs_less_stands_in_the_front(make_problem) -> None:
    problem = make_problem(layers=2)
    space = problem.space
    whole = lagrangian(space, problem.energies, 0.8)
    fewer = (*whole[:-1], whole[-1] - 1)
    assert Sizes(space, OBJECTIVE).place(fewer) == Sizes(space, OBJECTIVE).place(whole)
    twins = [
        Outcome(genome=genome, examples=SETTINGS.full, kl_nats=0.1, drop_points=0.0, metric=1.0)
        for genome in (whole, fewer)
    ]
    for outcomes in (twins, twins[::-1]):
        evolution = Evolution(space, problem.energies, OBJECTIVE, SETTINGS, memo=outcomes)
        evolution._progress.population.join(outcomes, 0.8)
        assert [one.genome for one in evolution.finalists()] == [fewer]


def test_a_front_that_hardly_covers_more_has_gained_nothing(make_problem) -> None:
    problem = make_problem(layers=2)
    small, middle, large = (lagrangian(problem.space, problem.energies, share) for share in (0.2, 0.5, 0.6))

    def outcome(genome, loss: float) -> Outcome:
        return Outcome(genome=genome, examples=SETTINGS.full, kl_nats=loss, drop_points=9.0, metric=0.5)

    found = [outcome(small, 1.0), outcome(middle, 0.5), outcome(large, 0.4999)]
    evolution = Evolution(problem.space, problem.energies, OBJECTIVE, SETTINGS, memo=found)
    stalled = []
    for finishers in (found[:2], found[2:]):
        evolution._progress._select(finishers, 0.8)
        stalled.append(evolution.state()["schedule"]["stalled"])
    assert stalled == [0, 1]


@pytest.mark.parametrize("patience", [1, 2, 3])
def test_seeds_are_no_generation_without_progress_even_where_their_front_is_a_single_point(
    make_problem, patience: int
) -> None:
    problem = make_problem(layers=2)
    search = replace(SETTINGS, patience=patience, overlap=1)
    evolution, retired = Evolution(problem.space, problem.energies, OBJECTIVE, search), []
    while not evolution.finished:
        evolution.tell(
            [
                Outcome(
                    genome=trial.genome, examples=trial.examples, kl_nats=1.0, drop_points=1.0, metric=0.5
                )
                for trial in evolution.ask()
            ]
        )
        while (record := evolution.retire()) is not None:
            retired.append(record.generation)
    assert retired == list(range(patience + 1))
