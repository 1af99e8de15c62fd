from collections.abc import Sequence
from functools import partial
from itertools import pairwise

import numpy as np
import pytest

from ranksieve.search.evolution.finalists import (
    LARGEST,
    LAST_START,
    RUNG,
    RUNGS,
    STARTS,
    TOLERANCE,
    Finalist,
    drop_finalists,
    front_finalists,
    risks,
    rungs,
)
from ranksieve.search.evolution.outcome import Outcome
from ranksieve.search.evolution.schedules import Accepted
from ranksieve.search.space.matrix import MatrixShape
from ranksieve.search.space.space import Genome, SearchSpace
from ranksieve.search.start.seeds import lagrangian, uniform


def outcome(genome: Genome) -> Outcome:
    return Outcome(genome=genome, examples=8, kl_nats=0.1, drop_points=5.0, metric=0.5)


def accept(space: SearchSpace, genome: Genome) -> Accepted:
    return Accepted(share=space.kept_share(genome), genome=genome)


def genomes(finalists: Sequence[Finalist]) -> list[Genome]:
    return [one.genome for one in finalists]


def risky(finalists: Sequence[Finalist]) -> dict[Genome, float]:
    return {one.genome: pytest.approx(one.risk) for one in finalists if one.risk}


def test_where_nothing_is_known_seeds_stand_on_a_ladder(make_problem) -> None:
    space = make_problem(layers=8).space
    seed = partial(lagrangian, space, make_problem(layers=8).energies)

    finalists = drop_finalists(space, seed, [], [])

    shares = [space.kept_share(genome) for genome in genomes(finalists)]
    sizes = rungs(space)
    assert sizes[0] == pytest.approx(LARGEST * space.largest_share)
    assert [smaller / larger for larger, smaller in pairwise(sizes)] == pytest.approx([RUNG] * (RUNGS - 1))
    assert shares == sorted(set(shares), reverse=True)
    assert {genome == seed(size) for genome, size in zip(genomes(finalists), sizes, strict=False)} == {True}
    starts = [index for index, one in enumerate(finalists) if one.risk]
    assert (len(starts), starts[0], starts[-1]) == (STARTS, 0, LAST_START)


def test_what_was_accepted_stands_on_its_rung_before_what_was_scored_and_seeds(make_problem) -> None:
    problem = make_problem(layers=8)
    space = problem.space
    seed = partial(lagrangian, space, problem.energies)
    sizes = rungs(space)
    other = partial(lagrangian, space, problem.true_energies)
    larger, smaller, smallest = other(sizes[3]), other(0.93 * sizes[3]), other(sizes[8])
    scored, less = other(sizes[5]), other(0.93 * sizes[5])
    accepted = [accept(space, genome) for genome in (larger, smaller, smallest)]
    front = [outcome(genome) for genome in (less, scored, seed(sizes[3]))]

    finalists = drop_finalists(space, seed, accepted, front)

    found = genomes(finalists)
    assert (found[3], found[5], found[8]) == (smaller, scored, smallest)
    assert all(found[rung] == seed(sizes[rung]) for rung in (0, 1, 2, 4, 6, 7, 9))
    assert risky(finalists) == {found[0]: 1 / 3, found[4]: 1 / 3, smallest: 1 / 3}


@pytest.mark.parametrize("share", [0.99, 0.955, 0.5, 0.2, 0.06, 0.01])
def test_finalists_fall_strictly_and_hold_the_smallest_accepted_one(make_problem, share: float) -> None:
    problem = make_problem(layers=8)
    space = problem.space
    seed = partial(lagrangian, space, problem.energies)
    smallest = accept(space, uniform(space, share))
    finalists = drop_finalists(space, seed, [smallest], [])
    shares = [space.kept_share(genome) for genome in genomes(finalists)]
    assert shares == sorted(set(shares), reverse=True)
    assert len(shares) <= RUNGS
    (risk,) = (one.risk for one in finalists if one.genome == smallest.genome)
    assert risk > 0.99 / STARTS
    assert sum(one.risk for one in finalists) == pytest.approx(1)


def test_where_even_the_smallest_genome_is_above_the_ladder_it_is_the_finalist(make_problem) -> None:
    problem = make_problem(layers=8)
    least = lagrangian(problem.space, problem.energies, 0.98)
    assert problem.space.kept_share(least) > LARGEST + TOLERANCE
    (finalist,) = drop_finalists(problem.space, lambda share: least, [], [])
    assert (finalist.genome, finalist.risk) == (least, 1.0)


@pytest.mark.parametrize(
    ("count", "last", "expected"),
    [
        (5, 4, [1 / 3, 0, 1 / 3, 0, 1 / 3]),
        (5, 3, [1 / 3, 0, 1 / 3, 1 / 3, 0]),
        (3, 1, [1 / 2, 1 / 2, 0]),
        (3, 0, [1, 0, 0]),
        (1, 0, [1]),
    ],
)
def test_all_of_the_risk_is_spread_over_a_few_starts(count: int, last: int, expected: list[float]) -> None:
    assert risks(count, last) == pytest.approx(expected)


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

    finalists = genomes(drop_finalists(space, seed, [accept(space, (0, 0, 0, 1))], []))

    costs = [space.cost(genome) for genome in finalists]
    assert costs == sorted(set(costs), reverse=True)
