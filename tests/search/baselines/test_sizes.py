from random import Random

from baselines.sizes import PAPER_DENSITIES, random_densities


def test_random_densities_are_those_of_the_paper(make_problem) -> None:
    problem = make_problem(layers=8, rank_step=1)
    genome = random_densities(problem.space, Random(0))
    assert genome == random_densities(problem.space, Random(0)) != random_densities(problem.space, Random(1))
    kept = [
        shape.density(rank)
        for shape, rank in zip(problem.space.matrices, problem.space.ranks(genome), strict=True)
    ]
    assert all(min(d - k for d in PAPER_DENSITIES if d >= k - 1e-9) < 0.05 for k in kept)
    assert len({round(k, 1) for k in kept}) > 5
