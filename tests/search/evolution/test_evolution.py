import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from ranksieve.search.errors import ConflictError, ScoringError
from ranksieve.search.evolution.evolution import Evolution
from ranksieve.search.evolution.finalists import FALLS, MOST_FINALISTS, TOLERANCE
from ranksieve.search.evolution.outcome import Outcome, Trial
from ranksieve.search.evolution.progress import BEST_FINALISTS
from ranksieve.search.evolution.proposals import Proposer
from ranksieve.search.evolution.record import GenerationRecord
from ranksieve.search.evolution.schedules import SEED_SHARES, schedule_for
from ranksieve.search.evolution.settings import SearchSettings
from ranksieve.search.space.constraints import Constraint, constrained
from ranksieve.search.space.matrix import DENSE
from ranksieve.search.space.objectives import MaxDrop, Objective, Pareto, TargetParams
from ranksieve.search.space.prices import Prices
from ranksieve.search.space.space import Genome, SearchSpace
from ranksieve.search.start.seeds import fitted, lagrangian, uniform

SETTINGS = SearchSettings(
    population=6,
    offspring=10,
    survivors=3,
    screen=8,
    full=32,
    generations=12,
    max_evaluations=2000,
    patience=50,
)


PARETO = Pareto(smallest=0.2, largest=0.8, sizes=7, finalists=4, points=2.0)
OBJECTIVES = [MaxDrop(points=2.0), TargetParams(share=0.4), PARETO]


def changed(**changes: Any) -> SearchSettings:
    fields = {name: getattr(SETTINGS, name) for name in SETTINGS.__dataclass_fields__}
    return SearchSettings(**{**fields, **changes})


def start(problem, objective: Objective, settings: SearchSettings = SETTINGS) -> Evolution:
    return Evolution(problem.space, problem.energies, objective, settings)


def drive(evolution: Evolution, problem) -> list[GenerationRecord]:
    """Scores whatever is asked for, in the order in which it is asked."""
    records = retired(evolution)
    while not evolution.finished:
        evolution.tell(problem.score(evolution.ask()))
        records += retired(evolution)
    return records


def finalists(evolution: Evolution) -> list[Genome]:
    return [one.genome for one in evolution.finalists()]


def retired(evolution: Evolution) -> list[GenerationRecord]:
    records = []
    while (record := evolution.retire()) is not None:
        records.append(record)
    return records


def test_the_search_beats_its_seed_at_the_same_size(make_problem) -> None:
    problem = make_problem(layers=8)
    seed = lagrangian(problem.space, problem.energies, 0.35)
    best = lagrangian(problem.space, problem.true_energies, 0.35)
    evolution = start(problem, TargetParams(share=0.35), changed(generations=40))
    records = drive(evolution, problem)
    found = problem.kl_nats(evolution.incumbent.genome)
    # at least a third of what knowing the hidden weights would bring
    assert found < problem.kl_nats(seed) - (problem.kl_nats(seed) - problem.kl_nats(best)) / 3
    assert all(problem.space.kept_share(trial.genome) <= 0.35 for trial in problem.calls)
    losses = [record.kl_nats for record in records]
    assert losses == sorted(losses, reverse=True)
    assert [record.generation for record in records] == list(range(41))


def test_generations_are_staged(make_problem) -> None:
    problem = make_problem()
    evolution = start(problem, TargetParams(share=0.4), changed(overlap=1))
    stages = []
    while not evolution.finished and evolution.generation < 3:
        trials = evolution.ask()
        stages.append({trial.examples for trial in trials})
        assert len(trials) == len(set(trials))
        evolution.tell(problem.score(trials))
        retired(evolution)
    assert stages == [{8}, {32}] * 4


def test_no_trial_is_scored_twice(make_problem) -> None:
    problem = make_problem()
    drive(start(problem, MaxDrop(points=2.0), changed(generations=25)), problem)
    assert len(problem.calls) == len(set(problem.calls))


def test_without_a_screen_there_is_one_stage(make_problem) -> None:
    problem = make_problem()
    evolution = start(problem, TargetParams(share=0.4), changed(screen=32, generations=3))
    assert len(drive(evolution, problem)) == 4
    assert {trial.examples for trial in problem.calls} == {32}


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_same_seed_makes_the_same_run(make_problem, objective: Objective) -> None:
    first, second, other = (make_problem(sublayers=True) for _ in range(3))
    assert drive(start(first, objective), first) == drive(start(second, objective), second)
    assert first.calls == second.calls
    drive(start(other, objective, changed(seed=1)), other)
    assert other.calls != first.calls


def test_a_saved_search_is_checked(make_problem) -> None:
    problem = make_problem()
    objective, settings = TargetParams(share=0.4), changed(generations=1)
    evolution = start(problem, objective, settings)
    outcomes = [outcome for record in drive(evolution, problem) for outcome in record.outcomes]
    state = evolution.state()

    def resume(settings: SearchSettings = settings, objective: Objective = objective, **changes: Any):
        return Evolution(
            problem.space, problem.energies, objective, settings, memo=outcomes, state={**state, **changes}
        )

    assert resume().finished
    outcomes, kept = [], outcomes
    with pytest.raises(ConflictError, match="memo lacks outcomes"):
        resume()
    outcomes = kept
    with pytest.raises(ConflictError, match="has version 2, expected 6"):
        resume(version=2)
    for others in (changed(generations=1, overlap=3), changed(generations=2)):
        with pytest.raises(ConflictError, match="another space, objective or setting"):
            resume(others)
    for other in (TargetParams(share=0.3), PARETO):
        with pytest.raises(ConflictError, match="another space, objective or setting"):
            resume(objective=other)
    matrices = problem.space.matrices
    problem = replace(
        problem, space=SearchSpace(matrices, 4, price=lambda shape, rank: 2 * shape.price(rank))
    )
    with pytest.raises(ConflictError, match="other costs of ranks"):
        resume()
    problem = make_problem(rank_step=8)
    with pytest.raises(ConflictError, match="another space, objective or setting"):
        resume()


def test_the_ratchet_ends_at_the_smallest_size_that_holds(make_problem) -> None:
    """Nothing is hidden, so the Lagrangian genome is best at every size and the smallest size is known."""
    problem = make_problem(layers=8, distortion=0.0)
    shares = [share / 1000 for share in range(150, 700)]
    kl_nats = [problem.kl_nats(lagrangian(problem.space, problem.energies, share)) for share in shares]
    limit = kl_nats[shares.index(0.33)]
    problem.points_per_nat = 2.0 / limit
    evolution = start(problem, MaxDrop(points=2.0), changed(generations=60, patience=6))
    records = drive(evolution, problem)
    accepted = [record for record in records if record.accepted]
    smallest = accepted[-1].kept_share
    assert smallest == pytest.approx(0.33, abs=0.006)
    assert evolution.generation < 60
    assert smallest in [problem.space.kept_share(genome) for genome in finalists(evolution)]
    assert records[0].accepted
    assert records[0].target_share == pytest.approx(0.36, abs=0.003)
    assert all(record.drop_points <= 2.0 for record in accepted)


def test_the_ratchet_gets_below_the_smallest_good_seed(make_problem) -> None:
    problem = make_problem(layers=8)
    seed = lagrangian(problem.space, problem.energies, 0.4)
    problem.points_per_nat = 2.0 / problem.kl_nats(seed)
    evolution = start(problem, MaxDrop(points=2.0), changed(generations=60, patience=12))
    records = drive(evolution, problem)
    share = [record for record in records if record.accepted][-1].kept_share
    (smallest,) = (g for g in finalists(evolution) if problem.space.kept_share(g) == share)
    assert share < 0.38
    assert problem.points_per_nat * problem.kl_nats(smallest) <= 2.0


def test_finalists_fall_in_size_for_a_drop_and_rise_in_kl_at_a_size(make_problem) -> None:
    problem = make_problem()
    evolution = start(problem, MaxDrop(points=2.0), changed(generations=25))
    drive(evolution, problem)
    shares = [problem.space.kept_share(genome) for genome in finalists(evolution)]
    assert shares == sorted(set(shares), reverse=True)
    assert 2 <= len(shares) <= MOST_FINALISTS

    problem = make_problem()
    evolution = start(problem, TargetParams(share=0.4))
    drive(evolution, problem)
    found = finalists(evolution)
    best = found[:BEST_FINALISTS]
    losses = [problem.kl_nats(genome) for genome in best]
    seed = lagrangian(problem.space, problem.energies, 0.4)
    assert len(best) == len(set(best)) == BEST_FINALISTS
    assert losses == sorted(losses)
    assert found[BEST_FINALISTS:] == ([] if seed in best else [seed])
    assert found[0] == evolution.incumbent.genome


def test_where_even_the_largest_seed_drops_too_much_the_search_starts_large(make_problem) -> None:
    problem = make_problem()
    problem.points_per_nat = 1e6
    evolution = start(problem, MaxDrop(points=1.0), changed(patience=2))
    records = drive(evolution, problem)
    assert records[0].target_share == 0.85
    assert not any(record.accepted for record in records)
    assert records[-1].target_share > 0.95
    safe, *hopeful = finalists(evolution)
    assert problem.space.kept_share(safe) > 0.9
    largest = problem.space.kept_share(safe) - FALLS[0] + TOLERANCE
    assert all(problem.space.kept_share(genome) < largest for genome in hopeful)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("limit", [1, 2, 4, 10, 33])
def test_evaluations_never_pass_their_limit(make_problem, objective: Objective, limit: int) -> None:
    problem = make_problem()
    evolution = start(problem, objective, changed(max_evaluations=limit))
    records = drive(evolution, problem)
    assert evolution.evaluations == len(problem.calls) <= limit
    assert records
    assert evolution.incumbent is not None
    assert evolution.finalists()


def test_no_generations_still_score_the_seeds(make_problem) -> None:
    problem = make_problem()
    (record,) = drive(start(problem, TargetParams(share=0.4), changed(generations=0)), problem)
    assert record.generation == 0
    assert record.evaluations == len(problem.calls)


def test_patience_ends_a_search_that_finds_nothing(make_problem) -> None:
    problem = make_problem(distortion=0.0)
    evolution = start(problem, TargetParams(share=0.5), changed(generations=500, patience=3))
    drive(evolution, problem)
    assert evolution.generation < 100


def test_a_space_with_nothing_new_ends_without_asking(tiny) -> None:
    space, energies = tiny
    asked: list[Trial] = []
    evolution = Evolution(space, energies, TargetParams(share=0.2), changed(generations=1000, patience=20))
    while not evolution.finished:
        trials = evolution.ask()
        assert trials
        asked.extend(trials)
        evolution.tell([scored(trial) for trial in trials])
        retired(evolution)
    assert len(asked) == len(set(asked)) < 200
    assert evolution.ask() == []


def scored(trial: Trial) -> Outcome:
    kl_nats = 1.0 / (1 + sum(trial.genome))
    return Outcome(
        genome=trial.genome, examples=trial.examples, kl_nats=kl_nats, drop_points=kl_nats, metric=1 - kl_nats
    )


def test_failures_are_kept_but_never_chosen(make_problem) -> None:
    problem = make_problem()
    problem.fails = lambda trial: "logits are NaN" if sum(trial.genome) % 3 == 0 else None
    evolution = start(problem, TargetParams(share=0.4))
    records = drive(evolution, problem)
    failed = [o for record in records for o in record.outcomes if o.failure is not None]
    assert failed
    assert {outcome.failure for outcome in failed} == {"logits are NaN"}
    assert all(sum(genome) % 3 for genome in finalists(evolution))
    assert all(outcome.failure is None for outcome in evolution.front())


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_seeds_that_all_fail_end_the_search(make_problem, objective: Objective) -> None:
    problem = make_problem()
    problem.fails = lambda trial: "out of memory"
    with pytest.raises(ScoringError, match="every seed failed: out of memory"):
        drive(start(problem, objective), problem)


def test_a_target_whose_candidates_all_fail_is_a_stall(make_problem) -> None:
    problem = make_problem()
    evolution = start(problem, MaxDrop(points=2.0), changed(patience=4))
    evolution.tell(problem.score(evolution.ask()))
    retired(evolution)
    held = evolution.incumbent
    problem.fails = lambda trial: "broken"
    records = drive(evolution, problem)
    assert records
    assert not any(record.accepted for record in records)
    assert evolution.incumbent == held
    assert evolution.finished


def test_records_are_storable(make_problem) -> None:
    problem = make_problem()
    records = drive(start(problem, MaxDrop(points=2.0)), problem)
    data = json.loads(json.dumps(records[1].to_json(), allow_nan=False))
    assert data["generation"] == 1
    assert "outcomes" not in data
    assert data["loss_min"] <= data["loss_avg"] <= data["loss_max"]
    rows = records[1].candidates(problem.space)
    assert len(rows) == len(records[1].outcomes)
    assert rows[0]["generation"] == 1
    assert rows[0]["kept_share"] == problem.space.kept_share(tuple(rows[0]["genome"]))
    assert sum(trial.examples - trial.known for trial in problem.calls) == records[-1].tokens


def test_telling_what_was_not_asked_for_is_refused(make_problem) -> None:
    problem = make_problem()
    evolution = start(problem, TargetParams(share=0.4))
    first, *_ = problem.score(evolution.ask(1))
    evolution.tell([first])
    with pytest.raises(ConflictError, match="tell every trial of ask once"):
        evolution.tell([first])
    assert evolution.retire() is None


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_users_seeds_are_scored_with_the_others(make_problem, objective: Objective) -> None:
    plain, problem = make_problem(), make_problem()
    known = lagrangian(problem.space, problem.true_energies, 0.4)
    first = [trial.genome for trial in start(plain, objective).ask()]
    evolution = Evolution(problem.space, problem.energies, objective, SETTINGS, seeds=[known])
    assert known not in first
    trials = evolution.ask()
    assert known in [trial.genome for trial in trials]
    evolution.tell(problem.score(trials))
    drive(evolution, problem)


def test_the_users_seeds_are_brought_to_the_one_size_that_is_wanted(make_problem) -> None:
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
        retired(evolution)
    assert max(map(space.kept_share, asked)) <= share
    assert all(space.kept_share(genome) <= share for genome in finalists(evolution))


def test_a_search_at_one_size_sets_out_from_the_start_it_is_given_and_may_return_to_it(make_problem) -> None:
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
    records = drive(evolution, problem)
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
def test_seeds_of_many_sizes_are_what_the_search_sets_out_from_brought_there(
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


def test_the_seed_of_a_size_is_made_of_the_nearest_start(make_problem) -> None:
    problem = make_problem()
    space, energies = problem.space, problem.energies
    small, large = (lagrangian(space, problem.true_energies, share) for share in (0.2, 0.42))
    evolution = Evolution(space, energies, MaxDrop(points=2.0), SETTINGS, starts={0.42: large, 0.2: small})
    nearest = {share: large if share >= 0.31 else small for share in SEED_SHARES}
    wanted = [fitted(problem.prices, nearest[share], share) for share in SEED_SHARES]
    assert sorted(trial.genome for trial in evolution.ask()) == sorted(wanted)
    assert wanted != [fitted(problem.prices, small, share) for share in SEED_SHARES]


def test_a_genome_that_was_given_is_scored_as_it_is_where_it_is_hardly_smaller(make_problem) -> None:
    problem = make_problem()
    space, prices = problem.space, problem.prices
    small, near, large = (lagrangian(space, problem.true_energies, share) for share in (0.3, 0.36, 0.5))
    evolution = Evolution(
        space, problem.energies, TargetParams(share=0.4), SETTINGS, seeds=[small, near, large]
    )
    asked = [trial.genome for trial in evolution.ask()]
    assert {near, fitted(prices, small, 0.4), fitted(prices, large, 0.4)} <= set(asked)
    assert {small, large, fitted(prices, near, 0.4)}.isdisjoint(asked)


def test_a_smaller_genome_that_was_given_and_holds_is_where_the_search_begins(make_problem) -> None:
    problem = make_problem()
    space = problem.space
    large, middle, best, bad = (
        lagrangian(space, problem.true_energies, share) for share in (0.4, 0.32, 0.3, 0.2)
    )
    objective = MaxDrop(points=1.01 * problem.points_per_nat * problem.kl_nats(best))
    plain = start(problem, objective, changed(generations=0))
    drive(plain, problem)
    given = Evolution(
        space, problem.energies, objective, changed(generations=0), seeds=[bad, best, middle, large]
    )
    (record,) = drive(given, problem)
    assert space.kept_share(best) < space.kept_share(plain.incumbent.genome)
    assert given.incumbent.genome == best
    assert record.accepted
    assert best in finalists(given)
    accepted = [share for share, _ in given.state()["schedule"]["accepted"]]
    assert accepted[-2:] == [space.kept_share(middle), space.kept_share(best)]
    assert given.target_share < space.kept_share(best)


def test_a_search_that_is_resumed_before_its_seeds_are_retired_begins_at_the_same_genome(
    make_problem,
) -> None:
    problem = make_problem()
    best = lagrangian(problem.space, problem.true_energies, 0.3)
    objective = MaxDrop(points=1.01 * problem.points_per_nat * problem.kl_nats(best))
    settings = changed(generations=3)
    evolution = Evolution(problem.space, problem.energies, objective, settings, seeds=[best])
    resumed = Evolution(
        problem.space, problem.energies, objective, settings, state=evolution.state(), seeds=[best]
    )
    records = drive(evolution, problem)
    assert records[0].kept_share == problem.space.kept_share(best)
    assert drive(resumed, problem) == records
    assert resumed.finalists() == evolution.finalists()


def test_a_start_smaller_than_its_size_is_not_taken_for_a_larger_one(make_problem) -> None:
    """What the start of 0.36 keeps is less than what that of 0.31 does; both hold."""
    problem = make_problem(layers=6)
    problem.points_per_nat = 0.0
    space = problem.space
    starts = {
        0.36: lagrangian(space, problem.energies, 0.29),
        0.31: lagrangian(space, problem.energies, 0.31),
    }
    evolution = Evolution(space, problem.energies, MaxDrop(points=2.0), changed(generations=0), starts=starts)
    drive(evolution, problem)
    accepted = [share for share, _ in evolution.state()["schedule"]["accepted"]]
    assert accepted == sorted(set(accepted), reverse=True)
    assert {space.kept_share(genome) for genome in starts.values()} <= set(accepted)


def test_a_start_that_failed_is_no_finalist(make_problem) -> None:
    problem = make_problem()
    origin = lagrangian(problem.space, problem.energies, 0.4)
    problem.fails = lambda trial: "broken" if trial.genome == origin else None
    evolution = start(problem, TargetParams(share=0.4))
    drive(evolution, problem)
    assert len(finalists(evolution)) == BEST_FINALISTS
    assert origin not in finalists(evolution)


def test_the_incumbent_of_many_equals_is_the_first_finalist(make_problem) -> None:
    problem = replace(make_problem(), weights=np.zeros(16))  # nobody loses anything
    evolution = start(problem, TargetParams(share=0.4), changed(generations=3))
    while not evolution.finished:
        evolution.tell(problem.score(evolution.ask()))
        while evolution.retire() is not None:
            assert evolution.incumbent.genome == finalists(evolution)[0]
    scored = [trial.genome for trial in problem.calls if trial.examples == SETTINGS.full]
    assert problem.space.cost(finalists(evolution)[0]) == min(map(problem.space.cost, scored))


def test_of_equals_that_cost_the_same_the_incumbent_is_the_first_finalist_too(make_problem) -> None:
    problem = make_problem(layers=2)
    first, second = (tuple(int(i == raised) for i in range(8)) for raised in (0, 4))
    known = [
        Outcome(genome=genome, examples=SETTINGS.full, kl_nats=0.1, drop_points=0.0, metric=1.0)
        for genome in (first, second)
    ]
    assert problem.space.cost(first) == problem.space.cost(second)
    evolution = Evolution(problem.space, problem.energies, TargetParams(share=0.4), SETTINGS, memo=known)
    for outcome in known:
        incumbent, _ = evolution._progress._select([outcome], 0.4)
        assert incumbent.genome == finalists(evolution)[0]


def test_a_new_target_is_approached_from_what_was_accepted_last_too(make_problem) -> None:
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


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_prices_are_made_once_for_all_sizes_of_a_search(
    make_problem, monkeypatch: pytest.MonkeyPatch, objective: Objective
) -> None:
    problem, made, make = make_problem(layers=2), [], Prices.__init__

    def counted(self: Prices, *arguments: Any) -> None:
        made.append(self)
        make(self, *arguments)

    assert problem.prices
    monkeypatch.setattr(Prices, "__init__", counted)
    evolution = start(problem, objective, changed(generations=2))
    drive(evolution, problem)
    assert evolution.finalists()
    assert len(made) == 1


def test_beside_a_genome_stands_what_the_search_set_out_from_or_else_the_genome_itself(make_problem) -> None:
    problem = make_problem()
    space = problem.space
    known, start = lagrangian(space, problem.true_energies, 0.32), uniform(space, 0.3)
    schedule = schedule_for(OBJECTIVES[0], space, patience=1)
    for starts, wanted in (({0.3: start}, start), ({}, fitted(problem.prices, known, 0.3))):
        assert (
            Proposer(prices=problem.prices, schedule=schedule, settings=SETTINGS, starts=starts).beside(
                known, 0.3
            )
            == wanted
        )


@pytest.mark.parametrize("objective", [*OBJECTIVES[:1], TargetParams(share=0.5), PARETO])
def test_a_search_stays_within_its_constraints(make_problem, objective: Objective) -> None:
    plain = make_problem(layers=6)
    constraints = [
        Constraint(field="0", matrices=("q_proj", "k_proj"), tied="layer"),
        Constraint(field="1", matrices=("[1-3].up_proj",), tied="all", min_density=0.3),
        Constraint(field="2", matrices=("[1-5].down_proj",), max_density=0.7),
        Constraint(field="3", matrices=("0.*",), frozen=DENSE),
    ]
    space = constrained(plain.space.matrices, plain.space.rank_step, constraints)
    problem = replace(plain, space=space, weights=np.ones(len(space)))
    drive(start(problem, objective, changed(generations=8, max_evaluations=200)), problem)
    assert len({trial.genome for trial in problem.calls}) > 40
    for trial in problem.calls:
        ranks = {m.name: r for m, r in zip(space.matrices, space.ranks(trial.genome), strict=True)}
        density = {m.name: m.density(ranks[m.name]) for m in space.matrices}
        assert all(rank == DENSE for name, rank in ranks.items() if name.startswith("0."))
        assert len({ranks[f"{layer}.up_proj"] for layer in (1, 2, 3)}) == 1
        assert density["2.up_proj"] >= 0.3
        assert all(density[f"{layer}.down_proj"] <= 0.7 for layer in range(1, 6))


def test_where_no_seed_holds_the_incumbent_is_the_largest(make_problem) -> None:
    problem = make_problem(layers=2)
    problem.points_per_nat = 1e6
    evolution = Evolution(problem.space, problem.energies, MaxDrop(points=1.0), SETTINGS)
    trials = evolution.ask()
    evolution.tell(problem.score(trials))
    record = evolution.retire()
    assert record is not None
    assert not record.accepted
    assert evolution.incumbent.genome == max((trial.genome for trial in trials), key=problem.space.params)
