"""Operators, repair and seeds in random spaces: bounded matrices, settled ones, ties, and costs in bytes."""

from collections.abc import Callable
from random import Random
from typing import Any

import numpy as np
from baselines.per_type import per_type
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ranksieve.search.errors import InputError
from ranksieve.search.evolution.operators.crossover import crossover
from ranksieve.search.evolution.operators.mutation import mutate
from ranksieve.search.space.genes import Tie
from ranksieve.search.space.matrix import MatrixShape
from ranksieve.search.space.prices import Prices
from ranksieve.search.space.repair import fill, repair
from ranksieve.search.space.space import Genome, SearchSpace
from ranksieve.search.start.seeds import lagrangian, uniform

WIDTHS = [(8, 8), (8, 24), (24, 8), (3, 20), (16, 16)]
thorough = settings(max_examples=60)


class BoundedSpace(SearchSpace):
    """A space that remembers which ranks it allows."""

    def __init__(self, *arguments: Any, allowed: list[tuple[int, ...]], **more: Any) -> None:
        super().__init__(*arguments, allowed=allowed, **more)
        self.allowed = allowed


@st.composite
def spaces(draw: st.DrawFn) -> BoundedSpace:
    """A space whose matrices are allowed any run of their ranks, some tied, in parameters or in bytes."""
    step = draw(st.integers(1, 4))
    widths = draw(st.lists(st.sampled_from(WIDTHS), min_size=2, max_size=9))
    matrices = [
        MatrixShape(name=str(i), out_features=o, in_features=d, layer=i // 3, kind=str(i % 3))
        for i, (o, d) in enumerate(widths)
    ]
    allowed = []
    for shape in matrices:
        grid = shape.grid(step)
        first = draw(st.just(0) | st.integers(0, len(grid) - 1))
        allowed.append(grid[first : draw(st.just(len(grid)) | st.integers(first + 1, len(grid)))])
    item_bytes = draw(st.sampled_from([None, 1, 2, 4]))
    try:
        return BoundedSpace(
            matrices,
            step,
            allowed=allowed,
            ties=draw(ties(len(matrices))),
            price=None if item_bytes is None else in_bytes(item_bytes),
        )
    except InputError:  # ties of matrices without a common density, or nothing to choose
        assume(False)
        raise


@st.composite
def ties(draw: st.DrawFn, count: int) -> list[Tie]:
    group_of = draw(st.lists(st.integers(0, 3), min_size=count, max_size=count))  # 0: not tied
    groups = [tuple(i for i in range(count) if group_of[i] == group) for group in (1, 2, 3)]
    return [Tie(members=group, field="search.constraints.0.tied") for group in groups if len(group) > 1]


def in_bytes(item_bytes: int) -> Callable[[MatrixShape, int], int]:
    return lambda shape, rank: shape.price(rank) * item_bytes


def genomes(space: SearchSpace) -> st.SearchStrategy[Genome]:
    return st.tuples(*(st.integers(0, count - 1) for count in space.counts_G.tolist()))


def energies_of(space: SearchSpace, seed: int) -> list[NDArray[np.float64]]:
    rng = np.random.default_rng(seed)
    widths = [min(shape.out_features, shape.in_features) for shape in space.matrices]
    return [np.sort(rng.lognormal(0, 2, width))[::-1] for width in widths]


def require_inside(space: BoundedSpace, genome: Genome) -> None:
    """Every matrix has a rank that it is allowed, and tied ones keep the same density up to their own steps."""
    assert space.validate(genome) == genome
    ranks = space.ranks(genome)
    assert len(ranks) == len(space.matrices)
    assert all(rank in allowed for rank, allowed in zip(ranks, space.allowed, strict=True))
    for gene in space.genes:
        lows, highs = zip(*(density_bounds(space, i, ranks[i]) for i in gene.members), strict=True)
        assert max(lows) < min(highs)


def density_bounds(space: SearchSpace, index: int, rank: int) -> tuple[float, float]:
    """The common densities that a matrix rounds down to `rank`."""
    shape = space.matrices[index]
    grid = shape.grid(space.rank_step)
    above = [*(shape.density(r) for r in grid), np.inf][grid.index(rank) + 1]
    return shape.density(rank), above


def nothing_fits(space: SearchSpace, genome: Genome, budget: int) -> bool:
    left = budget - space.cost(genome)
    return all(
        space.cost_at(i, level + 1) - space.cost_at(i, level) > left
        for i, level in enumerate(genome)
        if level + 1 < len(space.genes[i].levels)
    )


@thorough
@given(space=spaces())
def test_levels_rise_in_cost_and_sum_over_members(space: BoundedSpace) -> None:
    for i, gene in enumerate(space.genes):
        cost_L = space.cost_GL[i, : len(gene.levels)]
        assert len(gene.levels) > 1
        assert (np.diff(cost_L) > 0).all()
    for genome in (space.smallest_genome, space.largest_genome):
        require_inside(space, genome)
    ranks = space.ranks(space.largest_genome)
    prices = [shape.price(rank) for shape, rank in zip(space.matrices, ranks, strict=True)]
    assert space.params(space.largest_genome) == sum(prices)


@thorough
@given(data=st.data(), space=spaces(), seed=st.integers(0, 2**32 - 1), share=st.floats(0, 1))
def test_operators_and_repair_stay_inside_and_on_budget(
    data: st.DataObject, space: BoundedSpace, seed: int, share: float
) -> None:
    first, second, rng = data.draw(genomes(space)), data.draw(genomes(space)), Random(seed)
    child = crossover(space, first, second, rng)
    require_inside(space, child)
    prices = Prices(space, energies_of(space, seed))
    mutated = mutate(space, child, rng)
    require_inside(space, mutated)
    assert mutated != child
    budget = space.budget(share)
    repaired = repair(prices, mutated, budget, rng)
    require_inside(space, repaired)
    assert space.cost(repaired) <= budget
    assert nothing_fits(space, repaired, budget)


@thorough
@given(data=st.data(), space=spaces(), seed=st.integers(0, 2**32 - 1), share=st.floats(0, 1))
def test_repair_gives_fixed_genes_up_only_if_it_must(
    data: st.DataObject, space: BoundedSpace, seed: int, share: float
) -> None:
    genome, budget = data.draw(genomes(space)), space.budget(share)
    fixed = data.draw(st.sets(st.integers(0, len(space) - 1)))
    repaired = repair(Prices(space, energies_of(space, seed)), genome, budget, Random(seed), fixed=fixed)
    require_inside(space, repaired)
    assert space.cost(repaired) <= budget
    least = space.cost([level if i in fixed else 0 for i, level in enumerate(genome)])
    if least <= budget:
        assert all(repaired[i] == genome[i] for i in fixed)


@thorough
@given(space=spaces(), seed=st.integers(0, 2**32 - 1), share=st.floats(0, 1))
def test_seeds_stay_inside_and_on_budget(space: SearchSpace, seed: int, share: float) -> None:
    energies, budget = energies_of(space, seed), space.budget(share)
    cheapest = lagrangian(space, energies, share)
    for genome in (cheapest, per_type(space, energies, share), uniform(space, share)):
        require_inside(space, genome)
        assert space.cost(genome) <= budget
    assert nothing_fits(space, cheapest, budget)
    assert fill(Prices(space, energies), cheapest, budget) == cheapest
    if space.largest_share <= 1:  # in bytes, indices make the ranks just below dense dearer than dense
        assert uniform(space, 1.0) == space.largest_genome
        assert nothing_fits(space, lagrangian(space, energies, 1.0), space.cost(space.largest_genome))
