"""What a search sets out from: its own seeds and the user's."""

from dataclasses import replace
from typing import Any

import pytest

from ranksieve.search.evolution.evolution import Evolution
from ranksieve.search.evolution.outcome import Outcome, Trial
from ranksieve.search.evolution.progress import BEST_FINALISTS
from ranksieve.search.evolution.proposals import Proposer
from ranksieve.search.evolution.schedules import SEED_SHARES, schedule_for
from ranksieve.search.evolution.settings import SearchSettings
from ranksieve.search.space.objectives import MaxDrop, Objective, Pareto, TargetParams
from ranksieve.search.space.space import Genome
from ranksieve.search.start.seeds import fitted, lagrangian, uniform

LIMITS = {"population": 6, "offspring": 10, "full": 32, "max_evaluations": 2000}
SETTINGS = SearchSettings(**LIMITS, generations=12, patience=50)
SEEDS_ALONE = SearchSettings(**LIMITS, generations=0, patience=50)
PARETO = Pareto(smallest=0.2, largest=0.8, sizes=7, finalists=4, points=2.0)


def start(problem, objective: Objective, settings: SearchSettings = SETTINGS, **options: Any) -> Evolution:
    return Evolution(problem.space, problem.energies, objective, settings, **options)


def finalists(evolution: Evolution) -> list[Genome]:
    return [one.genome for one in evolution.finalists()]


@pytest.mark.parametrize("objective", [MaxDrop(points=2.0), TargetParams(share=0.4), PARETO])
def test_seeds_of_the_user_are_scored(make_problem, objective: Objective) -> None:
    plain, problem = make_problem(), make_problem()
    known = lagrangian(problem.space, problem.true_energies, 0.4)
    first = [trial.genome for trial in start(plain, objective).ask()]
    evolution = Evolution(problem.space, problem.energies, objective, SETTINGS, seeds=[known])
    assert known not in first
    trials = evolution.ask()
    assert known in [trial.genome for trial in trials]
    evolution.tell(problem.score(trials))
    problem.drive(evolution)


def test_seeds_of_the_user_are_brought_to_the_size(make_problem) -> None:
    problem, share = make_problem(), 0.3
    space = problem.space
    sizes = (1.0, 0.6, space.smallest_share)
    seeds = [lagrangian(space, problem.true_energies, size) for size in sizes]
    evolution = Evolution(space, problem.energies, TargetParams(share=share), SETTINGS, seeds=seeds)
    asked: list[Genome] = []
    while not evolution.finished:
        trials = evolution.ask()
        asked += [trial.genome for trial in trials]
        evolution.tell(problem.score(trials))
        problem.retire(evolution)
    assert max(map(space.kept_share, asked)) <= share
    assert all(space.kept_share(genome) <= share for genome in finalists(evolution))


def test_a_search_at_one_size_begins_at_its_start(make_problem) -> None:
    problem, objective = make_problem(), TargetParams(share=0.3)
    origin = lagrangian(problem.space, problem.energies, 0.3)
    evolution = start(problem, objective)
    first = [trial.genome for trial in evolution.ask()]
    assert first[:2] == [origin, uniform(problem.space, 0.3)]
    assert len(first) == SETTINGS.population
    evolution.tell(problem.score([Trial(genome=genome, examples=SETTINGS.full) for genome in first]))
    records = problem.drive(evolution)
    assert len(finalists(evolution)) == BEST_FINALISTS + 1
    assert finalists(evolution)[-1] == origin

    outcomes = [outcome for record in records for outcome in record.outcomes]
    resumed = start(problem, objective, memo=outcomes, state=evolution.state())
    assert resumed.finalists() == evolution.finalists()


@pytest.mark.parametrize(
    ("objective", "shares"),
    [(MaxDrop(points=2.0), SEED_SHARES), (PARETO, (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8))],
)
def test_seeds_of_many_sizes_are_scored_on_all_examples(
    make_problem, objective: Objective, shares: tuple[float, ...]
) -> None:
    problem = make_problem()
    trials = start(problem, objective).ask()
    assert {trial.examples for trial in trials} == {SETTINGS.full}
    seeds = [lagrangian(problem.space, problem.energies, share) for share in shares]
    assert sorted(trial.genome for trial in trials) == sorted(seeds)


def test_a_hardly_smaller_seed_is_scored_as_it_is(make_problem) -> None:
    problem = make_problem()
    space, prices = problem.space, problem.prices
    small, near, large = (lagrangian(space, problem.true_energies, share) for share in (0.3, 0.36, 0.5))
    evolution = Evolution(
        space, problem.energies, TargetParams(share=0.4), SETTINGS, seeds=[small, near, large]
    )
    asked = [trial.genome for trial in evolution.ask()]
    assert {near, fitted(prices, small, 0.4), fitted(prices, large, 0.4)} <= set(asked)
    assert {small, large, fitted(prices, near, 0.4)}.isdisjoint(asked)


def test_a_smaller_seed_that_holds_is_the_beginning(make_problem) -> None:
    problem = make_problem()
    space = problem.space
    large, middle, best, bad = (
        lagrangian(space, problem.true_energies, share) for share in (0.4, 0.32, 0.3, 0.2)
    )
    objective = MaxDrop(points=1.01 * problem.points_per_nat * problem.kl_nats(best))
    plain = start(problem, objective, SEEDS_ALONE)
    problem.drive(plain)
    given = Evolution(space, problem.energies, objective, SEEDS_ALONE, seeds=[bad, best, middle, large])
    (record,) = problem.drive(given)
    assert space.kept_share(best) < space.kept_share(plain.incumbent.genome)
    assert given.incumbent.genome == best
    assert record.accepted
    assert best in finalists(given)
    accepted = [share for share, _ in given.state()["schedule"]["accepted"]]
    assert accepted[-2:] == [space.kept_share(middle), space.kept_share(best)]
    assert given.target_share < space.kept_share(best)


def test_resuming_before_the_seeds_are_retired(
    make_problem,
) -> None:
    problem = make_problem()
    best = lagrangian(problem.space, problem.true_energies, 0.3)
    objective = MaxDrop(points=1.01 * problem.points_per_nat * problem.kl_nats(best))
    settings = replace(SETTINGS, generations=3)
    evolution = Evolution(problem.space, problem.energies, objective, settings, seeds=[best])
    resumed = Evolution(
        problem.space, problem.energies, objective, settings, state=evolution.state(), seeds=[best]
    )
    records = problem.drive(evolution)
    assert records[0].kept_share == problem.space.kept_share(best)
    assert problem.drive(resumed) == records
    assert resumed.finalists() == evolution.finalists()


def test_a_start_that_failed_is_no_finalist(make_problem) -> None:
    problem = make_problem()
    origin = lagrangian(problem.space, problem.energies, 0.4)
    problem.fails = lambda trial: "broken" if trial.genome == origin else None
    evolution = start(problem, TargetParams(share=0.4))
    problem.drive(evolution)
    assert len(finalists(evolution)) == BEST_FINALISTS
    assert origin not in finalists(evolution)


def test_a_new_target_is_approached_from_the_last_accepted(make_problem) -> None:
    problem = make_problem()
    space, energies = problem.space, problem.energies
    schedule = schedule_for(MaxDrop(points=2.0), space, patience=6)
    held, parent = uniform(space, 0.5), uniform(space, 0.3)
    good = Outcome(genome=held, examples=32, kl_nats=0.1, drop_points=1.0, metric=0.9)
    schedule.start([(space.kept_share(held), good)])
    proposer = Proposer(prices=problem.prices, schedule=schedule, settings=SETTINGS)

    class Sources:
        def moved(self, sources: list[Genome], budget: int, count: int) -> list[Genome]:
            assert (budget, count) == (proposer.budget, SETTINGS.offspring)
            return sources

    seed = lagrangian(space, energies, schedule.target)
    assert proposer.moved([parent], Sources()) == [seed, held, parent]  # type: ignore[arg-type]
