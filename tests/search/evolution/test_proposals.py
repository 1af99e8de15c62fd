"""What a search sets out from: its own seeds, the user's, and given starts."""

from dataclasses import replace
from typing import Any

import numpy as np
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

LIMITS = {"population": 6, "offspring": 10, "survivors": 3, "screen": 8, "full": 32, "max_evaluations": 2000}
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
    problem, objective = make_problem(), TargetParams(share=0.4)
    poor = uniform(problem.space, 0.4)  # so it is not among the best in the end
    plain = [trial.genome for trial in start(problem, objective).ask()]
    assert plain[:2] == [lagrangian(problem.space, problem.energies, 0.4), poor]
    given = {"starts": {0.4: poor}}
    evolution = Evolution(problem.space, problem.energies, objective, SETTINGS, **given)
    first = [trial.genome for trial in evolution.ask()]
    assert first[:2] == [poor, lagrangian(problem.space, problem.energies, 0.4)]
    assert len(first) == SETTINGS.population
    evolution.tell(problem.score([Trial(genome=genome, examples=SETTINGS.screen) for genome in first]))
    records = problem.drive(evolution)
    assert len(finalists(evolution)) == BEST_FINALISTS + 1
    assert finalists(evolution)[-1] == poor

    outcomes = [outcome for record in records for outcome in record.outcomes]
    resumed = Evolution(
        problem.space, problem.energies, objective, SETTINGS, memo=outcomes, state=evolution.state(), **given
    )
    assert resumed.finalists() == evolution.finalists()


@pytest.mark.parametrize(
    ("objective", "shares", "size"),
    [(MaxDrop(points=2.0), SEED_SHARES, 0.42), (PARETO, (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8), 0.4)],
)
def test_seeds_of_many_sizes_are_made_of_the_start(
    make_problem, objective: Objective, shares: tuple[float, ...], size: float
) -> None:
    problem = make_problem()
    space, known = problem.space, lagrangian(problem.space, problem.true_energies, size)
    evolution = Evolution(space, problem.energies, objective, SETTINGS, starts={size: known})
    trials = evolution.ask()
    assert {trial.examples for trial in trials} == {SETTINGS.full}
    seeds = [trial.genome for trial in trials]
    assert sorted(seeds) == sorted(fitted(problem.prices, known, share) for share in shares)
    apart = {share: sum(abs(np.subtract(fitted(problem.prices, known, share), known))) for share in shares}
    assert min(apart, key=apart.__getitem__) == size
    assert apart[size] <= 1  # what was left of the budget may be spent

    others = [lagrangian(space, problem.energies, share) for share in shares]
    assert sum(map(problem.kl_nats, seeds)) < sum(map(problem.kl_nats, others))


def test_a_seed_is_made_of_the_nearest_start(make_problem) -> None:
    problem = make_problem()
    space, energies = problem.space, problem.energies
    small, large = (lagrangian(space, problem.true_energies, share) for share in (0.2, 0.42))
    evolution = Evolution(space, energies, MaxDrop(points=2.0), SETTINGS, starts={0.42: large, 0.2: small})
    nearest = {share: large if share >= 0.31 else small for share in SEED_SHARES}
    wanted = [fitted(problem.prices, nearest[share], share) for share in SEED_SHARES]
    assert sorted(trial.genome for trial in evolution.ask()) == sorted(wanted)
    assert wanted != [fitted(problem.prices, small, share) for share in SEED_SHARES]


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


def test_a_start_smaller_than_its_size(make_problem) -> None:
    """What the start of 0.36 keeps is less than what that of 0.31 does; both hold."""
    problem = make_problem(layers=6)
    problem.points_per_nat = 0.0
    space = problem.space
    starts = {
        0.36: lagrangian(space, problem.energies, 0.29),
        0.31: lagrangian(space, problem.energies, 0.31),
    }
    evolution = Evolution(space, problem.energies, MaxDrop(points=2.0), SEEDS_ALONE, starts=starts)
    problem.drive(evolution)
    accepted = [share for share, _ in evolution.state()["schedule"]["accepted"]]
    assert accepted == sorted(set(accepted), reverse=True)
    assert {space.kept_share(genome) for genome in starts.values()} <= set(accepted)


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
    proposer = Proposer(prices=problem.prices, schedule=schedule, settings=SETTINGS, starts={})

    class Sources:
        def moved(self, sources: list[Genome], budget: int, count: int) -> list[Genome]:
            assert (budget, count) == (proposer.budget, SETTINGS.offspring)
            return sources

    seed = lagrangian(space, energies, schedule.target)
    assert proposer.moved([parent], Sources()) == [seed, held, parent]  # type: ignore[arg-type]


def test_beside_a_genome_stands_the_start_or_itself(make_problem) -> None:
    problem = make_problem()
    space = problem.space
    known, start = lagrangian(space, problem.true_energies, 0.32), uniform(space, 0.3)
    schedule = schedule_for(MaxDrop(points=2.0), space, patience=1)
    for starts, wanted in (({0.3: start}, start), ({}, fitted(problem.prices, known, 0.3))):
        assert (
            Proposer(prices=problem.prices, schedule=schedule, settings=SETTINGS, starts=starts).beside(
                known, 0.3
            )
            == wanted
        )
