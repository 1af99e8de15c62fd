"""What holds for every baseline: in the space, on budget, the same run for the same seed, and something is found."""

from collections.abc import Callable
from functools import partial
from itertools import product
from random import Random
from statistics import mean

import pytest
from baselines.batches import BatchSearch, Strategy
from baselines.bisection import bisection
from baselines.evopress import evopress, evopress_stages
from baselines.paper_ga import PaperSettings, paper_ga
from baselines.random_search import random_search
from baselines.sizes import random_genome, stepped
from hypothesis import given, settings
from hypothesis import strategies as st

from ranksieve.search.errors import InputError
from ranksieve.search.evolution.outcome import Outcome, Trial
from ranksieve.search.evolution.schedules import schedule_for
from ranksieve.search.space.objectives import MaxDrop, Objective, TargetParams
from ranksieve.search.space.prices import Prices
from ranksieve.search.start.seeds import lagrangian, uniform

FULL = 32
PAPER = PaperSettings(population=12, generations=8)
Make = Callable[..., Strategy]


def _evopress(problem, objective: Objective, rng: Random) -> Strategy:
    schedule = schedule_for(objective, problem.space, patience=6)
    family = partial(uniform, problem.space)
    return evopress(problem.space, schedule, family, stages=evopress_stages(FULL), rng=rng, offspring=16)


def _random(problem, objective: Objective, rng: Random) -> Strategy:
    schedule = schedule_for(objective, problem.space, patience=6)
    family = partial(uniform, problem.space)
    return random_search(problem.space, schedule, family, full=FULL, offspring=12, rng=rng)


def _paper(problem, objective: Objective, rng: Random) -> Strategy:
    return paper_ga(problem.space, objective, full=FULL, rng=rng, settings=PAPER)


def _uniform(problem, objective: Objective, rng: Random) -> Strategy:
    return bisection(problem.space, objective, partial(uniform, problem.space), full=FULL)


def _lagrangian(problem, objective: Objective, rng: Random) -> Strategy:
    family = partial(lagrangian, problem.space, problem.energies)
    return bisection(problem.space, objective, family, full=FULL)


ALL = pytest.mark.parametrize("make", [_evopress, _random, _paper, _uniform, _lagrangian])
SEARCHES = pytest.mark.parametrize("make", [_evopress, _random, _paper])
OBJECTIVES = pytest.mark.parametrize("objective", [TargetParams(share=0.35), MaxDrop(points=18.0)])


def drive(strategy: Strategy, problem, most: int = 400) -> list[Outcome]:
    """Scores what is asked for, one by one, up to so many trials."""
    search, outcomes = BatchSearch(strategy), []
    while not search.finished and len(outcomes) < most:
        outcomes += problem.score(search.ask(1))
        search.tell(outcomes[-1:])
    return outcomes


def full(outcomes: list[Outcome]) -> list[Outcome]:
    return [outcome for outcome in outcomes if outcome.examples == FULL]


@ALL
def test_nothing_larger_than_the_size_that_is_given_is_scored(make: Make, make_problem) -> None:
    problem = make_problem()
    outcomes = drive(make(problem, TargetParams(share=0.35), Random(0)), problem)
    assert full(outcomes)
    assert all(problem.space.validate(outcome.genome) == outcome.genome for outcome in outcomes)
    assert max(problem.space.kept_share(outcome.genome) for outcome in outcomes) <= 0.35


@SEARCHES
@OBJECTIVES
def test_the_same_seed_makes_the_same_run(make: Make, make_problem, objective: Objective) -> None:
    problem = make_problem(layers=2)
    first, second, other = (drive(make(problem, objective, Random(seed)), problem, 120) for seed in (3, 3, 4))
    assert first == second
    assert first != other


@SEARCHES
def test_a_search_improves_on_what_it_began_with(make: Make, make_problem) -> None:
    problem = make_problem(layers=2)
    losses = [o.fitness for o in full(drive(make(problem, TargetParams(share=0.35), Random(0)), problem))]
    assert min(losses) < 0.9 * mean(losses[:3])


@ALL
def test_smaller_models_that_are_good_enough_are_found(make: Make, make_problem) -> None:
    problem = make_problem()
    outcomes = full(drive(make(problem, MaxDrop(points=18.0), Random(0)), problem))
    good = [problem.space.kept_share(outcome.genome) for outcome in outcomes if outcome.within(18.0)]
    assert min(good) < 0.75


@ALL
@OBJECTIVES
def test_failures_are_survived(make: Make, make_problem, objective: Objective) -> None:
    problem = make_problem(layers=2)
    problem.fails = lambda trial: "not finite" if sum(trial.genome) % 3 == 0 else None
    assert drive(make(problem, objective, Random(0)), problem, 120)


def test_evopress_reaches_the_optimum_of_a_small_space(tiny) -> None:
    space, energies = tiny
    best = lagrangian(space, energies, 0.6)
    lost = {
        genome: Prices(space, energies).loss(genome)
        for genome in _all_genomes(space)
        if space.kept_share(genome) <= 0.6
    }
    optimum = min(lost.values())
    schedule = schedule_for(TargetParams(share=0.6), space, patience=30)
    strategy = evopress(space, schedule, partial(uniform, space), stages=evopress_stages(4), rng=Random(0))
    search = BatchSearch(strategy)
    seen = []
    while not search.finished:
        for trial in search.ask():
            seen.append(trial.genome)
            search.tell([_outcome(trial, lost[trial.genome])])
    assert min(lost[genome] for genome in seen) == pytest.approx(optimum)
    assert lost[best] >= optimum


def _all_genomes(space):
    return product(*(range(count) for count in space.counts_G.tolist()))


def _outcome(trial: Trial, loss: float) -> Outcome:
    return Outcome(
        genome=trial.genome, examples=trial.examples, kl_nats=loss, drop_points=loss, metric=0.5, tokens=1
    )


def test_bisection_takes_one_scoring_where_the_size_is_given(make_problem) -> None:
    problem = make_problem()
    (outcome,) = drive(_uniform(problem, TargetParams(share=0.35), Random(0)), problem)
    assert outcome.genome == uniform(problem.space, 0.35)


def test_bisection_ends_beside_the_smallest_that_holds(make_problem) -> None:
    problem = make_problem()
    outcomes = drive(_lagrangian(problem, MaxDrop(points=18.0), Random(0)), problem)
    good = [problem.space.kept_share(outcome.genome) for outcome in outcomes if outcome.within(18.0)]
    bad = [problem.space.kept_share(outcome.genome) for outcome in outcomes if not outcome.within(18.0)]
    assert max(bad) < min(good) < max(bad) + 0.05
    assert len(outcomes) <= 8


def test_the_papers_levels_have_a_smallest_size(make_problem) -> None:
    problem = make_problem(rank_step=1)
    with pytest.raises(InputError, match=r"objective.share: must be at least 0\.0"):
        drive(_paper(problem, TargetParams(share=0.001), Random(0)), problem)


def test_the_first_population_of_the_paper_is_diverse(make_problem) -> None:
    problem = make_problem()
    search = BatchSearch(_paper(problem, MaxDrop(points=18.0), Random(0)))
    first = search.ask()
    assert len(first) == PAPER.population
    assert len({trial.genome for trial in first}) == PAPER.population
    assert {trial.examples for trial in first} == {FULL}


@given(seed=st.integers(0, 2**32), start=st.floats(0, 1), share=st.floats(0.05, 1))
@settings(max_examples=40)
def test_random_steps_end_on_budget(make_space, seed: int, start: float, share: float) -> None:
    space = make_space(layers=2)
    genome, budget = uniform(space, start), space.budget(share)
    fitted = stepped(space, genome, budget, Random(seed))
    assert space.validate(fitted) == fitted
    assert space.cost(fitted) <= budget
    grown, shrunk = (
        any((a > b) == up and a != b for a, b in zip(fitted, genome, strict=True)) for up in (True, False)
    )
    assert not (grown and shrunk)
    if space.cost(genome) <= budget:
        steps = [(i, level + 1) for i, level in enumerate(fitted) if level + 1 < len(space.genes[i].levels)]
        assert all(
            space.cost(fitted) + space.cost_at(i, up) - space.cost_at(i, up - 1) > budget for i, up in steps
        )


@given(seed=st.integers(0, 2**32), share=st.floats(0.01, 1))
@settings(max_examples=40)
def test_random_genomes_are_on_budget(make_space, seed: int, share: float) -> None:
    space = make_space(layers=2)
    assert space.cost(random_genome(space, space.budget(share), Random(seed))) <= space.budget(share)


def scored(trials: list[Trial], loss: Callable[[int], float | None]) -> list[Outcome]:
    """Outcomes of trials by their number; None: a failure."""
    return [
        Outcome.failed(trial, "broken")
        if (nats := loss(number)) is None
        else Outcome(genome=trial.genome, examples=trial.examples, kl_nats=nats, drop_points=nats, metric=0.5)
        for number, trial in enumerate(trials)
    ]


def test_the_paper_s_parents_are_the_better_ones_and_its_elite_the_best_that_has_not_failed(
    make_problem,
) -> None:
    copies = PaperSettings(population=60, generations=1, crossover_rate=0.0, mutation_rate=0.0)
    strategy = paper_ga(
        make_problem().space, TargetParams(share=0.35), full=FULL, rng=Random(0), settings=copies
    )
    first = list(next(strategy))
    number = {trial.genome: number for number, trial in enumerate(first)}
    elite, *children = strategy.send(scored(first, lambda number: None if number < 20 else float(number)))

    assert number[elite.genome] == 20
    places = [number[child.genome] - 20 if number[child.genome] >= 20 else 50 for child in children]
    assert mean(places) < 20  # of the best of three, 15; at random, 30


@pytest.mark.parametrize("make", [_evopress, _random])
def test_a_search_that_finds_nothing_better_ends(make: Make, make_problem) -> None:
    problem = make_problem()
    search, generations = BatchSearch(make(problem, TargetParams(share=0.35), Random(0))), 0
    while not search.finished:
        trials = search.ask(1000)
        search.tell(scored(trials, lambda _: 1.0))
        generations += 1
        assert generations < 60  # of six without progress, in stages


def test_random_search_keeps_nothing_that_is_larger_than_its_target(make_problem) -> None:
    problem = make_problem()
    schedule = schedule_for(MaxDrop(points=18.0), problem.space, patience=6)
    calls, observe = [], schedule.observe

    def observed(leader: Outcome | None, share: float, *, target: float, improved: bool) -> bool:
        calls.append((leader, share, target))
        return observe(leader, share, target=target, improved=improved)

    schedule.observe = observed
    family = partial(uniform, problem.space)
    drive(random_search(problem.space, schedule, family, full=FULL, offspring=12, rng=Random(0)), problem)

    assert len({target for _, _, target in calls}) > 1
    assert all(share <= target + 1e-9 for leader, share, target in calls if leader is not None)
