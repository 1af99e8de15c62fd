import itertools

import numpy as np
import pytest
from baselines.per_type import per_type

from ranksieve.search.errors import InputError
from ranksieve.search.space.matrix import MatrixShape
from ranksieve.search.space.prices import Energies, Prices
from ranksieve.search.space.space import SearchSpace
from ranksieve.search.start.seeds import lagrangian, uniform


@pytest.fixture
def two_types() -> tuple[SearchSpace, Energies]:
    """Three layers of two kinds; layers differ in what they are worth."""
    matrices = [
        MatrixShape(name=f"{layer}.{kind}", out_features=8, in_features=d, layer=layer, kind=kind)
        for layer in range(3)
        for kind, d in (("narrow", 8), ("wide", 24))
    ]
    decay_K = np.arange(1, 9) ** -1.0
    worth = [1.0, 0.2, 0.3, 2.0, 4.0, 0.1]
    return SearchSpace(matrices, 1), [value * decay_K for value in worth]


def test_the_ends_of_the_size_axis(tiny) -> None:
    space, energies = tiny
    assert per_type(space, energies, 1.0) == space.largest_genome
    assert per_type(space, energies, 0.0) == (0, 0, 0)


def test_worthless_matrices_give_no_error(tiny) -> None:
    space, energies = tiny
    zeros = [np.zeros_like(energy) for energy in energies]
    assert space.kept_share(per_type(space, zeros, 0.5)) <= 0.5


def test_a_share_beyond_one_is_refused(tiny) -> None:
    space, energies = tiny
    with pytest.raises(InputError, match=r"must be in \[0, 1\], got 1.2"):
        per_type(space, energies, 1.2)


def test_per_type_is_the_brute_force_optimum_on_its_convex_hull(two_types) -> None:
    space, energies = two_types
    prices = Prices(space, energies)
    # equal shapes within a type, so a common density is a common level
    levels = [len(space.genes[0].levels), len(space.genes[1].levels)]
    genomes = [pair * 3 for pair in itertools.product(*map(range, levels))]
    params = np.array([space.params(genome) for genome in genomes])
    losses = np.array([prices.loss(genome) for genome in genomes])
    hull = {int((losses + rate * params).argmin()) for rate in np.geomspace(1e-5, 1.0, 400)}
    assert len(hull) > 5
    for index in hull:
        genome = per_type(space, energies, params[index] / space.total_params)
        assert prices.loss(genome) == pytest.approx(losses[index])


def test_per_type_shares_a_density_and_spends_the_rest(two_types) -> None:
    space, energies = two_types
    differ = False
    for share in np.linspace(0, 1, 23):
        genome = per_type(space, energies, share)
        assert genome == genome[:2] * 3
        differ |= genome[0] != genome[1]
        left = space.budget(share) - space.params(genome)
        steps = [
            3 * (space.cost_at(i, genome[i] + 1) - space.cost_at(i, genome[i]))
            for i in range(2)
            if genome[i] + 1 < len(space.genes[i].levels)
        ]
        assert left >= 0
        assert all(step > left for step in steps)
    assert differ


@pytest.mark.parametrize("share", [0.0, 0.3, 0.55, 0.8, 1.0])
def test_per_type_of_one_type_is_uniform(tiny, share: float) -> None:
    space, energies = tiny  # one kind, two shapes
    assert per_type(space, energies, share) == uniform(space, share)


def test_per_type_lies_between_lagrangian_and_uniform(make_problem) -> None:
    problem = make_problem()
    for share in (0.7, 0.4, 0.2):
        free, typed, flat = (
            Prices(problem.space, problem.energies).loss(genome)
            for genome in (
                lagrangian(problem.space, problem.energies, share),
                per_type(problem.space, problem.energies, share),
                uniform(problem.space, share),
            )
        )
        assert free < typed < flat


def test_the_number_of_an_expert_makes_no_type() -> None:
    kinds = ["w1", "w2", "experts.0.w1", "experts.1.w1"]
    matrices = [MatrixShape(name=kind, out_features=8, in_features=8, layer=0, kind=kind) for kind in kinds]
    space = SearchSpace(matrices, 1)
    energies = [np.full(8, worth) for worth in (4.0, 1.0, 0.5, 0.0)]
    assert lagrangian(space, energies, 0.75) == (4, 4, 4, 0)
    assert per_type(space, energies, 0.75) == (4, 4, 2, 2)  # 32 of 64 each
