import itertools
from collections.abc import Callable

import numpy as np
import pytest

from ranksieve.search.errors import InputError
from ranksieve.search.space.genes import Tie
from ranksieve.search.space.matrix import DENSE, MatrixShape
from ranksieve.search.space.prices import Prices
from ranksieve.search.space.space import Genome, SearchSpace
from ranksieve.search.start.seeds import (
    fitted,
    from_densities,
    lagrangian,
    uniform,
)


def test_lagrangian_is_the_brute_force_optimum_on_the_convex_hull(tiny) -> None:
    space, energies = tiny
    prices = Prices(space, energies)
    genomes = list(itertools.product(*map(range, space.counts_G.tolist())))
    params = np.array([space.params(genome) for genome in genomes])
    losses = np.array([prices.loss(genome) for genome in genomes])
    # the hull: genomes that minimise loss + rate·params for some rate
    rates = np.geomspace(1e-5, 1.0, 400)
    hull = {int((losses + rate * params).argmin()) for rate in rates}
    assert len(hull) > 5
    for index in hull:
        genome = lagrangian(space, energies, params[index] / space.total_params)
        assert prices.loss(genome) == pytest.approx(losses[index])


def test_between_hull_points_the_rest_of_the_budget_is_spent(tiny) -> None:
    space, energies = tiny
    for share in np.linspace(0, 1, 23):
        genome = lagrangian(space, energies, share)
        left = space.budget(share) - space.params(genome)
        steps = [
            space.cost_at(i, level + 1) - space.cost_at(i, level)
            for i, level in enumerate(genome)
            if level + 1 < len(space.genes[i].levels)
        ]
        assert left >= 0
        assert all(step > left for step in steps)


def test_the_ends_of_the_size_axis(tiny) -> None:
    space, energies = tiny
    assert lagrangian(space, energies, 1.0) == space.largest_genome
    assert lagrangian(space, energies, 0.0) == (0, 0, 0)
    assert uniform(space, 1.0) == space.largest_genome
    assert uniform(space, 0.0) == (0, 0, 0)


def test_worthless_matrices_give_no_error(tiny) -> None:
    space, energies = tiny
    zeros = [np.zeros_like(energy) for energy in energies]
    assert space.kept_share(lagrangian(space, zeros, 0.5)) <= 0.5


def test_uniform_by_hand() -> None:
    matrices = [MatrixShape(name=n, out_features=8, in_features=8, layer=0, kind="m") for n in "ab"]
    space = SearchSpace(matrices, 1)
    assert uniform(space, 0.5) == (2, 2)  # 32 of 64 each
    assert uniform(space, 0.6) == (2, 2)  # the next common density would keep 0.75
    assert uniform(space, 0.75) == (3, 3)


def test_a_seed_beats_uniform_and_both_fit(make_problem) -> None:
    problem = make_problem()
    for share in (0.7, 0.4, 0.2):
        seed, flat = lagrangian(problem.space, problem.energies, share), uniform(problem.space, share)
        assert problem.space.kept_share(seed) <= share
        assert problem.space.kept_share(flat) <= share
        assert problem.space.kept_share(seed) > share - 0.01
        loss_of_seed = Prices(problem.space, problem.energies).loss(seed)
        assert loss_of_seed < Prices(problem.space, problem.energies).loss(flat)


@pytest.mark.parametrize("seed", [lagrangian, lambda space, _, share: uniform(space, share)])
def test_a_share_beyond_one_is_refused(tiny, seed: Callable[..., Genome]) -> None:
    space, energies = tiny
    with pytest.raises(InputError, match=r"must be in \[0, 1\], got 1.2"):
        seed(space, energies, 1.2)


def test_a_wish_is_rounded_down_to_levels() -> None:
    matrices = [
        MatrixShape(name=kind, out_features=8, in_features=d, layer=0, kind=kind)
        for kind, d in (("a", 8), ("b", 8), ("c", 24))
    ]
    space = SearchSpace(matrices, 1)  # a and b keep a quarter per rank, c a sixth
    assert space.ranks(from_densities(space, [0.5, 0.74, 1.0])) == (2, 2, DENSE)
    assert space.ranks(from_densities(space, [0.0, 0.25, 1 / 6 * 3])) == (0, 1, 3)
    bounded = SearchSpace(matrices, 1, allowed=[(2, 3), (0, 1, 2), (0, 1, 2, 3, 4, 5, DENSE)])
    assert bounded.ranks(from_densities(bounded, [0.0, 1.0, 0.5])) == (2, 2, 3)
    tied = SearchSpace(matrices, 1, ties=[Tie(members=(0, 1), field="x")])
    assert tied.ranks(from_densities(tied, [0.2, 0.8, 0.5])) == (2, 2, 3)  # half of both together


def test_ranks_that_are_levels_come_back(make_problem) -> None:
    space = SearchSpace(make_problem().space.matrices, 4)
    genome = tuple(i % count for i, count in enumerate(space.counts_G.tolist()))
    pairs = zip(space.matrices, space.ranks(genome), strict=True)
    assert from_densities(space, [shape.density(rank) for shape, rank in pairs]) == genome


def test_a_fitted_genome_keeps_what_it_knew(make_problem) -> None:
    problem = make_problem(layers=6, rank_step=1)
    known = lagrangian(problem.space, problem.true_energies, 0.5)
    own_share = problem.space.kept_share(known)
    assert fitted(problem.prices, known, own_share) == known
    for share in (0.4, 0.6):
        genome = fitted(problem.prices, known, share)
        assert share - 0.01 < problem.space.kept_share(genome) <= share
        assert problem.kl_nats(genome) < problem.kl_nats(lagrangian(problem.space, problem.energies, share))


def test_a_rank_is_bought_by_the_share_that_it_keeps() -> None:
    """98 of 2401 parameters are a rank of 1, though 98 / 2401 * 2401 is a little less than 98."""
    space = SearchSpace([MatrixShape(name="m", out_features=49, in_features=49, layer=0, kind="m")], 1)
    density = space.matrices[0].density(1)
    assert density * 2401 < 98
    assert from_densities(space, [density]) == uniform(space, density) == (1,)
