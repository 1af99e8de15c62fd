from functools import partial

import pytest

from search.finalists import drop_finalists, front_finalists, spread
from search.objectives import Accepted
from search.outcome import Outcome
from search.seeds import lagrangian
from search.space import Genome


def test_the_first_and_those_that_keep_the_gap() -> None:
    assert spread([0.21, 0.22, 0.25, 0.28, 0.29, 0.4, 0.5], 9) == [0, 2, 4, 5, 6]
    assert spread([0.21, 0.22, 0.25, 0.28, 0.29, 0.4, 0.5], 3) == [0, 2, 4]
    assert spread([0.5, 0.45, 0.44, 0.41], 9) == [0, 1, 3]
    assert spread([], 3) == []


def no_seed(share: float) -> Genome:
    raise AssertionError("nobody needs a seed where something was accepted")


def outcome(genome: Genome) -> Outcome:
    return Outcome(genome=genome, examples=8, kl_nats=0.1, drop_points=5.0, metric=0.5)


def test_larger_ones_to_fall_back_on_then_smaller_ones_to_hope_for(make_problem) -> None:
    problem = make_problem()
    space, energies = problem.space, problem.energies
    genomes = {
        share: lagrangian(space, energies, share) for share in (0.7, 0.5, 0.46, 0.44, 0.4, 0.34, 0.31, 0.2)
    }
    accepted = [Accepted(share=share, genome=genomes[share]) for share in (0.7, 0.5, 0.46, 0.44, 0.4)]
    front = [outcome(genomes[share]) for share in (0.2, 0.31, 0.34, 0.5)]

    finalists = drop_finalists(space, no_seed, accepted, front, 3)

    assert finalists == [genomes[share] for share in (0.5, 0.44, 0.4, 0.34, 0.2)]
    assert drop_finalists(space, no_seed, accepted, [], 1) == [genomes[0.4]]


def test_with_nothing_accepted_a_safe_one_leads(make_problem) -> None:
    problem = make_problem()
    genome = lagrangian(problem.space, problem.energies, 0.85)
    seed = partial(lagrangian, problem.space, problem.energies)
    safe, hopeful = drop_finalists(problem.space, seed, [], [outcome(genome)], 6)
    assert problem.space.kept_share(safe) == pytest.approx(0.95, abs=0.02)
    assert hopeful == genome


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
