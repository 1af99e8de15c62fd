from collections.abc import Callable
from functools import partial
from itertools import pairwise

import pytest

from search.finalists import MOST_FINALISTS, drop_finalists, front_finalists
from search.outcome import Outcome
from search.schedules import Accepted
from search.seeds import fitted, lagrangian, uniform
from search.space import Genome


def outcome(genome: Genome) -> Outcome:
    return Outcome(genome=genome, examples=8, kl_nats=0.1, drop_points=5.0, metric=0.5)


def as_seed(seed: Callable[[float], Genome]) -> Callable[[Genome, float], Genome]:
    return lambda genome, share: seed(share)


def test_larger_ones_to_fall_back_on_then_smaller_ones_to_hope_for(make_problem) -> None:
    problem = make_problem(layers=8)
    space = problem.space
    seed = partial(lagrangian, space, problem.energies)
    accepted = [Accepted(share=space.kept_share(seed(share)), genome=seed(share)) for share in (0.42, 0.4)]
    found, far = uniform(space, 0.379), seed(0.338)
    front = [outcome(genome) for genome in (seed(0.2), far, found, seed(0.39), seed(0.5))]

    finalists = drop_finalists(space, seed, as_seed(seed), accepted, front)

    rising = [0.42, 0.44, 0.46, 0.48, 0.5, 0.54, 0.6, 0.72, 0.87]
    falling = [0.375, 0.355, 0.325, 0.285, 0.2, 0.11]  # the step of 0.09 leads near the seed that was scored
    wanted = [0.95, *reversed(rising), 0.4, *falling]
    shares = [space.kept_share(genome) for genome in finalists]
    assert shares == pytest.approx(wanted, abs=0.01)
    assert shares == sorted(set(shares), reverse=True)
    assert found in finalists
    assert far not in finalists


def test_what_was_accepted_near_a_step_stands_for_the_seed_of_its_size(make_problem) -> None:
    problem = make_problem(layers=8)
    space = problem.space
    seed = partial(lagrangian, space, problem.energies)
    found = uniform(space, 0.47)
    accepted = [Accepted(share=space.kept_share(genome), genome=genome) for genome in (found, seed(0.42))]
    finalists = drop_finalists(space, seed, as_seed(seed), accepted, [])
    found_at = finalists.index(found)
    larger, smaller = (space.kept_share(finalists[found_at + step]) for step in (-1, 1))
    assert (larger, smaller) == pytest.approx((0.49, 0.44), abs=0.01)


def test_no_gap_is_wide_above_what_was_accepted_by_luck(make_problem) -> None:
    problem = make_problem(layers=8)
    seed = partial(lagrangian, problem.space, problem.energies)
    lucky = Accepted(share=problem.space.kept_share(seed(0.15)), genome=seed(0.15))
    shares = map(problem.space.kept_share, drop_finalists(problem.space, seed, as_seed(seed), [lucky], []))
    assert max(larger - smaller for larger, smaller in pairwise(shares)) < 0.2


def test_near_the_smallest_accepted_one_its_allocation_goes_on(make_problem) -> None:
    problem = make_problem(layers=8)
    space = problem.space
    seed, fit = partial(lagrangian, space, problem.energies), partial(fitted, space, problem.energies)
    found = uniform(space, 0.4)
    smallest = Accepted(share=space.kept_share(found), genome=found)

    finalists = drop_finalists(space, seed, fit, [smallest], [])

    sizes = {genome: space.kept_share(genome) - smallest.share for genome in finalists}
    near = {genome for genome, away in sizes.items() if 0.0 < abs(away) < 0.095}
    assert len(near) >= 6
    assert near == {fit(found, smallest.share + away) for genome, away in sizes.items() if genome in near}
    assert near.isdisjoint(map(seed, (space.kept_share(genome) for genome in near)))
    assert seed(0.95) in finalists
    far = [genome for genome, away in sizes.items() if abs(away) > 0.105]
    assert far == [seed(space.kept_share(genome)) for genome in far]


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.9, 0.94, 0.96, 1.0])
def test_finalists_fall_strictly_wherever_the_smallest_accepted_one_is(make_problem, share: float) -> None:
    problem = make_problem()
    space = problem.space
    seed = partial(lagrangian, space, problem.energies)
    smallest = Accepted(share=space.kept_share(seed(share)), genome=seed(share))
    finalists = drop_finalists(
        space, seed, as_seed(seed), [smallest], [outcome(seed(share / 10)) for share in range(10)]
    )
    shares = [space.kept_share(genome) for genome in finalists]
    assert smallest.genome in finalists
    assert shares == sorted(set(shares), reverse=True)
    assert len(shares) <= MOST_FINALISTS
    assert shares[0] == max(smallest.share, space.kept_share(seed(0.95)))


def test_with_nothing_accepted_a_safe_one_leads(make_problem) -> None:
    problem = make_problem()
    seed = partial(lagrangian, problem.space, problem.energies)
    found = seed(problem.space.kept_share(seed(0.95)) - 0.022)
    safe, *hopeful = drop_finalists(problem.space, seed, as_seed(seed), [], [outcome(found)])
    assert problem.space.kept_share(safe) == pytest.approx(0.95, abs=0.02)
    assert hopeful[0] == found


def test_points_spread_over_a_front_keep_its_ends() -> None:
    shares = [0.2, 0.21, 0.22, 0.4, 0.61, 0.8]
    front = [outcome((level,)) for level in range(6)]
    assert front_finalists(front, shares, 4) == [(5,), (4,), (3,), (0,)]
    assert front_finalists(front, shares, 2) == [(5,), (0,)]
    assert front_finalists(front, shares, 1) == [(5,)]
    assert front_finalists(front, shares, 9) == [(5,), (4,), (3,), (2,), (1,), (0,)]


def test_no_point_is_taken_twice() -> None:
    front = [outcome((level,)) for level in range(3)]
    assert front_finalists(front, [0.2, 0.21, 0.8], 3) == [(2,), (1,), (0,)]
