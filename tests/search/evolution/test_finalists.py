import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise

import numpy as np
import pytest

from ranksieve.search.evolution.finalists import (
    MOST_ACCEPTED,
    MOST_FINALISTS,
    SAFE_STEP,
    Finalist,
    drop_finalists,
    front_finalists,
    risks,
)
from ranksieve.search.evolution.outcome import Outcome
from ranksieve.search.evolution.schedules import Accepted
from ranksieve.search.space.matrix import MatrixShape
from ranksieve.search.space.prices import Prices
from ranksieve.search.space.space import Genome, SearchSpace
from ranksieve.search.start.seeds import fitted, lagrangian, uniform


def outcome(genome: Genome) -> Outcome:
    return Outcome(genome=genome, examples=8, kl_nats=0.1, drop_points=5.0, metric=0.5)


def accept(space: SearchSpace, genome: Genome) -> Accepted:
    return Accepted(share=space.kept_share(genome), genome=genome)


def as_seed(seed: Callable[[float], Genome]) -> Callable[[Genome, float], Genome]:
    return lambda genome, share: seed(share)


def genomes(finalists: Sequence[Finalist]) -> list[Genome]:
    return [one.genome for one in finalists]


def risky(finalists: Sequence[Finalist]) -> dict[Genome, float]:
    return {one.genome: pytest.approx(one.risk) for one in finalists if one.risk}


def test_safe_ones_then_what_was_accepted_then_smaller_ones_to_hope_for(make_problem) -> None:
    problem = make_problem(layers=8)
    space = problem.space
    seed = partial(lagrangian, space, problem.energies)
    sizes = (0.6, 0.5, 0.46, 0.43, 0.41, 0.4)
    accepted = [accept(space, seed(share)) for share in sizes]
    found, scored = uniform(space, 0.379), seed(0.27)
    front = [outcome(genome) for genome in (seed(0.2), scored, found, seed(0.39), seed(0.5))]

    finalists = drop_finalists(space, seed, as_seed(seed), accepted, front)

    safe = [0.95, 0.75]
    chosen = [0.6, 0.55, 0.5, 0.46, 0.43, 0.4]  # 0.41 is less than half a step above, 0.55 halfway
    close = [0.375, 0.354, 0.333, 0.312]
    far_apart = [0.269, 0.2, 0.119]  # steps of 0.03, 0.05 and 0.08; the first leads near what was scored
    shares = [space.kept_share(genome) for genome in genomes(finalists)]
    assert shares == pytest.approx([*safe, *chosen, *close, *far_apart], abs=0.005)
    assert shares == sorted(set(shares), reverse=True)
    assert {found, scored} < set(genomes(finalists))
    part = 0.5 / 3
    assert risky(finalists) == {seed(0.95): 0.2, seed(0.6): 0.3 + part, seed(0.46): part, seed(0.4): part}


def test_between_what_was_accepted_far_apart_first_guesses_stand_in_even_steps(make_problem) -> None:
    problem = make_problem(layers=8)
    space = problem.space
    seed, fit = partial(lagrangian, space, problem.energies), partial(fitted, Prices(space, problem.energies))
    found, smallest = uniform(space, 0.47), uniform(space, 0.3)
    accepted = [accept(space, genome) for genome in (found, smallest)]
    finalists = genomes(drop_finalists(space, seed, fit, accepted, []))
    first, last = finalists.index(found), finalists.index(smallest)
    shares = [space.kept_share(genome) for genome in finalists[first : last + 1]]
    steps = [larger - smaller for larger, smaller in pairwise(shares)]
    wide = shares[0] - shares[-1]
    assert len(steps) == 5  # of at most a tenth of the larger one's size
    assert steps == pytest.approx([wide / 5] * 5, abs=0.005)
    wanted = [shares[-1] + part * wide / 5 for part in (4, 3, 2, 1)]
    expected = [*map(seed, wanted[:2]), *(fit(smallest, share) for share in wanted[2:])]
    assert finalists[first + 1 : last] == expected
    assert all(genome == seed(space.kept_share(genome)) for genome in finalists[:first])


def test_guesses_that_are_no_smaller_than_what_is_known_do_not_stand_between(make_problem) -> None:
    problem = make_problem(layers=8)
    space = problem.space
    seed = partial(lagrangian, space, problem.energies)
    above, smallest = uniform(space, 0.5), uniform(space, 0.3)
    accepted = [accept(space, genome) for genome in (above, smallest)]
    for guess in (above, seed(0.6)):

        def too_large(share: float, guess: Genome = guess) -> Genome:
            return guess if 0.3 < share < 0.5 else seed(share)

        finalists = genomes(drop_finalists(space, too_large, as_seed(too_large), accepted, []))
        assert finalists.index(smallest) == finalists.index(above) + 1


def test_steps_between_small_models_are_no_narrower_than_is_worth_a_test(make_problem) -> None:
    problem = make_problem(layers=8)
    space = problem.space
    seed = partial(lagrangian, space, problem.energies)
    above, smallest = seed(0.09), uniform(space, 0.08)
    accepted = [accept(space, genome) for genome in (above, smallest)]
    finalists = genomes(drop_finalists(space, seed, as_seed(seed), accepted, []))
    steps = finalists.index(smallest) - finalists.index(above)
    assert steps == math.ceil((accepted[0].share - accepted[1].share) / 0.01)


def test_of_several_that_were_scored_near_a_step_down_the_largest_stands_there(make_problem) -> None:
    problem = make_problem(layers=8)
    space = problem.space
    seed = partial(lagrangian, space, problem.energies)
    smallest = accept(space, seed(0.4))
    larger, smaller = (
        lagrangian(space, problem.true_energies, smallest.share - fall) for fall in (0.0205, 0.0225)
    )
    assert smallest.share - 0.029 < space.kept_share(smaller) < space.kept_share(larger)
    finalists = genomes(
        drop_finalists(space, seed, as_seed(seed), [smallest], [outcome(smaller), outcome(larger)])
    )
    assert finalists[finalists.index(smallest.genome) + 1] == larger


def test_of_many_that_were_accepted_the_smallest_go_on(make_problem) -> None:
    problem = make_problem(layers=8)
    space = problem.space
    seed = partial(lagrangian, space, problem.energies)
    accepted = [accept(space, seed(share / 200)) for share in range(20, 190)]
    shares = [
        space.kept_share(genome)
        for genome in genomes(drop_finalists(space, seed, as_seed(seed), accepted, []))
    ]
    at = shares.index(accepted[0].share)
    assert len(shares) <= MOST_FINALISTS
    chosen = shares[at - MOST_ACCEPTED + 1 : at + 1]
    assert set(chosen) <= {entry.share for entry in accepted}
    small = [share for share in chosen if share <= 2 * chosen[-1]]
    assert len(small) > 5
    assert all(0.004 < larger - smaller < 0.02 for larger, smaller in pairwise(small))
    far = chosen[: -len(small)]
    assert all(0.14 < (larger - smaller) / larger < 0.18 for larger, smaller in pairwise(far))


def test_no_gap_is_wide_above_what_was_accepted_by_luck(make_problem) -> None:
    problem = make_problem(layers=8)
    seed = partial(lagrangian, problem.space, problem.energies)
    lucky = accept(problem.space, seed(0.15))
    finalists = genomes(drop_finalists(problem.space, seed, as_seed(seed), [lucky], []))
    shares = map(problem.space.kept_share, finalists)
    assert max(larger - smaller for larger, smaller in pairwise(shares)) < 0.2


def test_near_the_smallest_accepted_one_its_allocation_goes_on(make_problem) -> None:
    problem = make_problem(layers=8)
    space = problem.space
    seed, fit = partial(lagrangian, space, problem.energies), partial(fitted, Prices(space, problem.energies))
    found = uniform(space, 0.4)
    smallest = accept(space, found)

    finalists = genomes(drop_finalists(space, seed, fit, [smallest], []))

    below = {genome: smallest.share - space.kept_share(genome) for genome in finalists}
    near = {genome for genome, away in below.items() if 0.0 < away < 0.095}
    assert len(near) >= 3
    assert near == {fit(found, smallest.share - below[genome]) for genome in near}
    assert near.isdisjoint(map(seed, (space.kept_share(genome) for genome in near)))
    assert seed(0.95) in finalists
    far = [genome for genome, away in below.items() if away > 0.105]
    assert far == [seed(space.kept_share(genome)) for genome in far]


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.9, 0.94, 0.96, 1.0])
def test_finalists_fall_strictly_wherever_the_smallest_accepted_one_is(make_problem, share: float) -> None:
    problem = make_problem()
    space = problem.space
    seed = partial(lagrangian, space, problem.energies)
    smallest = accept(space, seed(share))
    finalists = drop_finalists(
        space, seed, as_seed(seed), [smallest], [outcome(seed(share / 10)) for share in range(10)]
    )
    shares = [space.kept_share(genome) for genome in genomes(finalists)]
    assert smallest.genome in genomes(finalists)
    assert shares == sorted(set(shares), reverse=True)
    assert len(shares) <= MOST_FINALISTS
    safest = space.kept_share(seed(0.95))
    assert shares[0] == (safest if smallest.share < 0.95 - SAFE_STEP / 2 else smallest.share)
    assert sum(one.risk for one in finalists) == pytest.approx(1)
    safest_known = seed(0.6) if smallest.share < 0.59 else smallest.genome
    assert safest_known in risky(finalists)


def test_a_seed_stands_for_larger_ones_that_were_refused_by_bad_luck(make_problem) -> None:
    problem = make_problem(layers=8)
    space = problem.space
    seed = partial(lagrangian, space, problem.energies)
    smallest = accept(space, seed(0.31))
    finalists = drop_finalists(space, seed, as_seed(seed), [smallest], [])
    shares = [space.kept_share(one.genome) for one in finalists[:8]]
    assert shares == pytest.approx([0.95, 0.75, 0.6, 0.54, 0.48, 0.425, 0.37, 0.31], abs=0.01)
    part, between = 0.5 / 3, genomes(finalists)[5]
    assert risky(finalists) == {seed(0.95): 0.2, seed(0.6): 0.3 + part, between: part, seed(0.31): part}


def test_no_seed_that_is_smaller_counts_as_accepted(make_problem) -> None:
    problem = make_problem(layers=8)
    space, found = problem.space, lagrangian(problem.space, problem.energies, 0.55)

    def seed(share: float) -> Genome:
        return lagrangian(space, problem.energies, min(share, 0.5))  # no larger ones are allowed

    entry = accept(space, found)
    finalists = drop_finalists(space, seed, as_seed(seed), [entry], [])
    assert genomes(finalists)[0] == found
    assert risky(finalists) == {found: 1.0}


def test_with_nothing_accepted_a_safe_one_leads(make_problem) -> None:
    problem = make_problem()
    seed = partial(lagrangian, problem.space, problem.energies)
    found = seed(problem.space.kept_share(seed(0.95)) - 0.0205)
    finalists = drop_finalists(problem.space, seed, as_seed(seed), [], [outcome(found)])
    safe, *hopeful = genomes(finalists)
    assert problem.space.kept_share(safe) == pytest.approx(0.95, abs=0.02)
    assert hopeful[0] == found
    assert problem.space.kept_share(hopeful[-1]) < 0.25  # each tested as long as all before it hold
    seeds = [genome for genome in hopeful if 0.14 <= problem.space.kept_share(genome) <= 0.6]
    parts = {seeds[0], seeds[len(seeds) // 2], seeds[-1]}
    assert risky(finalists) == {safe: 0.7, **dict.fromkeys(parts, pytest.approx(0.1))}


@pytest.mark.parametrize(
    ("safe", "chosen", "falling", "expected"),
    [
        (1, [], [0.94, 0.7], [1, 0, 0]),
        (1, [], [0.94, 0.6, 0.5, 0.4, 0.3, 0.1], [0.7, 0, 0.1, 0, 0.1, 0.1, 0]),
        (1, [], [0.94, 0.5], [0.7, 0, 0.3]),
        (0, [0.5, 0.4], [0.39], [0.75, 0.25, 0]),
        (2, [0.3], [0.29], [0.2, 0, 0.8, 0]),
        (1, [0.8, 0.7], [0.69, 0.61], [0.2, 0.3 + 0.25, 0.25, 0, 0]),
        (1, [0.8, 0.7], [0.69, 0.58, 0.4], [0.2, 0.3, 0.2, 0, 0.15, 0.15]),
        (0, [0.97], [0.96, 0.5], [0.7, 0, 0.3]),
        (1, [0.5, 0.2], [], [0.2, 0.3, 0.5]),
        (
            1,
            [0.6, 0.42, 0.3, 0.28, 0.2, 0.18, 0.14],
            [0.13],
            [0.2, 0.3, 0, 0, 0.5 / 3, 0, 0.5 / 3, 0.5 / 3, 0],
        ),
    ],
)
def test_all_of_the_risk_is_spread(
    safe: int, chosen: list[float], falling: list[float], expected: list[float]
) -> None:
    assert risks(safe, chosen, falling) == pytest.approx(expected)


def test_points_spread_over_a_front_keep_its_ends() -> None:
    shares = [0.2, 0.21, 0.22, 0.4, 0.61, 0.8]
    front = [outcome((level,)) for level in range(6)]
    assert genomes(front_finalists(front, shares, 4)) == [(5,), (4,), (3,), (0,)]
    assert genomes(front_finalists(front, shares, 2)) == [(5,), (0,)]
    assert genomes(front_finalists(front, shares, 1)) == [(5,)]
    assert genomes(front_finalists(front, shares, 9)) == [(5,), (4,), (3,), (2,), (1,), (0,)]
    assert risky(front_finalists(front, shares, 4)) == {(5,): 0.8, (3,): 0.2}
    assert risky(front_finalists(front, shares, 1)) == {(5,): 1.0}


def test_no_point_is_taken_twice() -> None:
    front = [outcome((level,)) for level in range(3)]
    assert genomes(front_finalists(front, [0.2, 0.21, 0.8], 3)) == [(2,), (1,), (0,)]


def test_sizes_fall_strictly_where_those_of_seeds_do_not() -> None:
    shapes = [(8, 4), (8, 2), (8, 8), (2, 4)]
    space = SearchSpace(
        [
            MatrixShape(name=str(i), out_features=o, in_features=d, layer=i, kind="m")
            for i, (o, d) in enumerate(shapes)
        ],
        1,
    )
    energies = [1 / np.arange(1.0, min(shape) + 1) for shape in shapes]

    def seed(share: float) -> Genome:
        return lagrangian(space, energies, 0.75 if 0.75 < share < 0.9 else share)

    assert space.cost(seed(0.75)) == space.cost(seed(0.85))

    finalists = genomes(drop_finalists(space, seed, as_seed(seed), [accept(space, (0, 0, 0, 1))], []))

    costs = [space.cost(genome) for genome in finalists]
    assert costs == sorted(set(costs), reverse=True)
