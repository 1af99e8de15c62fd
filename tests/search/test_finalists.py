import pytest

from search.finalists import drop_finalists, spread
from search.objectives import Accepted
from search.outcome import Outcome
from search.seeds import lagrangian
from search.space import Genome


def test_the_first_and_those_that_keep_the_gap() -> None:
    assert spread([0.21, 0.22, 0.25, 0.28, 0.29, 0.4, 0.5], 9) == [0, 2, 4, 5, 6]
    assert spread([0.21, 0.22, 0.25, 0.28, 0.29, 0.4, 0.5], 3) == [0, 2, 4]
    assert spread([0.5, 0.45, 0.44, 0.41], 9) == [0, 1, 3]
    assert spread([], 3) == []


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

    finalists = drop_finalists(space, energies, accepted, front, 3)

    assert finalists == [genomes[share] for share in (0.5, 0.44, 0.4, 0.34, 0.2)]
    assert drop_finalists(space, energies, accepted, [], 1) == [genomes[0.4]]


def test_with_nothing_accepted_a_safe_one_leads(make_problem) -> None:
    problem = make_problem()
    genome = lagrangian(problem.space, problem.energies, 0.85)
    safe, hopeful = drop_finalists(problem.space, problem.energies, [], [outcome(genome)], 6)
    assert problem.space.kept_share(safe) == pytest.approx(0.95, abs=0.02)
    assert hopeful == genome
