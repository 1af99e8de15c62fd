"""What holds for every operator: it stays in the space, leaves its input alone, depends on its rng only."""

from collections.abc import Callable
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ranksieve.search.errors import InputError
from ranksieve.search.evolution.operators.crossover import crossover, layer_block, one_point, uniform
from ranksieve.search.evolution.operators.mutation import MOST_CHANGES, draw_changes, level_below, mutate
from ranksieve.search.space.matrix import MatrixShape
from ranksieve.search.space.prices import Prices
from ranksieve.search.space.repair import fill, repair
from ranksieve.search.space.space import Genome, SearchSpace
from ranksieve.search.start.seeds import lagrangian

SHAPES = [(16, 16), (8, 16), (32, 16), (16, 32)] * 3
SPACE = SearchSpace(
    [
        MatrixShape(name=str(i), out_features=o, in_features=d, layer=i // 4, kind=str(i % 4))
        for i, (o, d) in enumerate(SHAPES)
    ],
    2,
)
ENERGIES = [(1 + i % 5) * np.arange(1, 17, dtype=np.float64) ** -(0.5 + i / 10) for i in range(len(SHAPES))]
PRICES = Prices(SPACE, ENERGIES)
FALLING = SearchSpace(
    SPACE.matrices, 2, price=lambda shape, rank: shape.price(rank) - max(0, rank) ** 2
)  # the higher a rank, the less the next one costs

genomes = st.tuples(*(st.integers(0, count - 1) for count in SPACE.counts_G.tolist()))
seeds = st.integers(0, 2**32 - 1)
quick = settings(max_examples=60)

OPERATORS: dict[str, Callable[[Genome, Genome, Random], Genome]] = {
    "one_point": one_point,
    "uniform": uniform,
    "layer_block": lambda a, b, rng: layer_block(SPACE, a, b, rng),
    "crossover": lambda a, b, rng: crossover(SPACE, a, b, rng),
    "mutate": lambda a, b, rng: mutate(SPACE, a, rng),
    "repair": lambda a, b, rng: repair(PRICES, a, SPACE.params(b), rng),
}


@pytest.mark.parametrize("name", OPERATORS)
@quick
@given(first=genomes, second=genomes, seed=seeds)
def test_every_operator_is_pure(name: str, first: Genome, second: Genome, seed: int) -> None:
    before = (tuple(first), tuple(second))
    child = OPERATORS[name](first, second, Random(seed))
    assert SPACE.validate(child) == child
    assert (first, second) == before
    assert OPERATORS[name](first, second, Random(seed)) == child


@quick
@given(first=genomes, second=genomes, seed=seeds)
def test_crossovers_take_every_level_from_a_parent(first: Genome, second: Genome, seed: int) -> None:
    for name in ("one_point", "uniform", "layer_block", "crossover"):
        child = OPERATORS[name](first, second, Random(seed))
        assert all(level in pair for level, pair in zip(child, zip(first, second, strict=True), strict=True))


def test_layer_block_takes_whole_layers() -> None:
    low, high = (0,) * len(SPACE), SPACE.largest_genome
    for seed in range(20):
        child = layer_block(SPACE, low, high, Random(seed))
        for layer in range(3):
            block = slice(4 * layer, 4 * layer + 4)
            assert child[block] in (low[block], high[block])
        assert child != low


@quick
@given(genome=genomes, seed=seeds)
def test_mutation_changes_a_few_matrices(genome: Genome, seed: int) -> None:
    child = mutate(SPACE, genome, Random(seed))
    assert 1 <= sum(a != b for a, b in zip(child, genome, strict=True)) <= MOST_CHANGES


def test_few_changes_are_the_rule() -> None:
    rng = Random(0)
    draws = [draw_changes(rng) for _ in range(1000)]
    assert set(draws) == {1, 2, 3, 4}
    assert draws.count(1) > draws.count(2) > draws.count(3) > draws.count(4)


def test_a_step_down_from_dense_is_a_jump() -> None:
    top = len(SPACE.genes[0].levels) - 1
    assert SPACE.genes[0].is_dense(top)
    below = {level_below(SPACE, 0, top, Random(seed)) for seed in range(50)}
    assert [SPACE.cost_at(0, level) for level in range(top + 1)] == [0, 64, 128, 192, 256]
    assert below == {2, 3}
    assert level_below(SPACE, 0, 2, Random(0)) == 1


def test_a_step_down_from_dense_keeps_about_half_or_more() -> None:
    space = SearchSpace([MatrixShape(name="m", out_features=16, in_features=16, layer=0, kind="m")], 1)
    assert space.params_GL.tolist() == [[0, 32, 64, 96, 128, 160, 192, 224, 256]]
    assert {level_below(space, 0, 8, Random(seed)) for seed in range(50)} == {4, 5, 6, 7}
    narrow = SearchSpace(space.matrices, 16)  # no rank between none and dense
    assert level_below(narrow, 0, 1, Random(0)) == 0


@quick
@given(data=st.data(), share=st.floats(0, 1), seed=seeds)
def test_prices_that_fall_with_the_rank_change_nothing_of_this(
    data: st.DataObject, share: float, seed: int
) -> None:
    genome = data.draw(st.tuples(*(st.integers(0, count - 1) for count in FALLING.counts_G.tolist())))
    budget = FALLING.budget(share)
    changed = mutate(FALLING, genome, Random(seed))
    repaired = repair(Prices(FALLING, ENERGIES), changed, budget, Random(seed))
    assert FALLING.validate(repaired) == repaired
    assert FALLING.cost(repaired) <= budget
    assert nothing_fits(repaired, budget, space=FALLING)


def nothing_fits(
    genome: Genome,
    budget: int,
    skip: set[int] = frozenset(),  # type: ignore[assignment]
    space: SearchSpace = SPACE,
) -> bool:
    left = budget - space.cost(genome)
    return all(
        space.cost_at(i, level + 1) - space.cost_at(i, level) > left
        for i, level in enumerate(genome)
        if i not in skip and level + 1 < len(space.genes[i].levels)
    )


@quick
@given(genome=genomes, share=st.floats(0, 1), seed=seeds)
def test_repair_meets_the_budget_and_spends_it(genome: Genome, share: float, seed: int) -> None:
    budget = SPACE.budget(share)
    repaired = repair(PRICES, genome, budget, Random(seed))
    assert SPACE.params(repaired) <= budget
    assert nothing_fits(repaired, budget)


@quick
@given(genome=genomes, share=st.floats(0, 1), seed=seeds, fixed=st.sets(st.integers(0, len(SPACE) - 1)))
def test_repair_gives_fixed_matrices_up_only_if_it_must(
    genome: Genome, share: float, seed: int, fixed: set[int]
) -> None:
    budget = SPACE.budget(share)
    repaired = repair(PRICES, genome, budget, Random(seed), fixed=fixed)
    assert SPACE.params(repaired) <= budget
    assert nothing_fits(repaired, budget, fixed)
    held = sum(SPACE.cost_at(i, genome[i]) for i in fixed)
    if held <= budget:
        assert all(repaired[i] == genome[i] for i in fixed)


@quick
@given(share=st.floats(0.05, 0.95))
def test_fill_only_raises(share: float) -> None:
    nothing = (0,) * len(SPACE)
    filled = fill(PRICES, nothing, SPACE.budget(share))
    assert SPACE.params(filled) <= SPACE.budget(share)
    assert nothing_fits(filled, SPACE.budget(share))


def test_repair_refuses_a_negative_budget() -> None:
    with pytest.raises(InputError, match="must be at least 0, the cost of the smallest genome, got -1"):
        repair(PRICES, SPACE.largest_genome, -1, Random(0))


def test_repair_keeps_what_a_search_found() -> None:
    """A genome tuned to hidden weights, moved to a smaller size, still beats a plain seed under them."""
    rng = np.random.default_rng(3)
    weights = rng.lognormal(0, 1.0, len(SPACE))
    hidden = [energy * weight for energy, weight in zip(ENERGIES, weights, strict=True)]
    for space in (SPACE, FALLING):
        true = Prices(space, hidden)
        tuned = lagrangian(space, hidden, 0.5)
        moved = repair(Prices(space, ENERGIES), tuned, space.budget(0.4), Random(0), jitter=0.0)
        assert true.loss(moved) < true.loss(lagrangian(space, ENERGIES, 0.4))


def test_repair_lowers_what_a_search_has_raised_and_lowered_alike() -> None:
    """Of two equal matrices a search has one at a high level: cheap by the prediction, dear by what was found."""
    shapes = [MatrixShape(name=str(i), out_features=64, in_features=64, layer=i, kind="m") for i in range(2)]
    space = SearchSpace(shapes, 1)
    prices = Prices(space, [np.arange(1, 65.0) ** -1.0] * 2)
    high, low = 24, 8

    repaired = repair(prices, (high, low), space.cost((high, low)) - 16 * 128, Random(0), jitter=0.0)

    assert high - repaired[0] == pytest.approx(16 * high / (high + low), abs=2)
    assert low - repaired[1] == pytest.approx(16 * low / (high + low), abs=2)


def test_the_jitter_of_repair_leads_elsewhere() -> None:
    genome = tuple((SPACE.counts_G - 1).tolist())
    ends = {repair(PRICES, genome, SPACE.total_cost // 3, Random(seed)) for seed in range(5)}
    same = {repair(PRICES, genome, SPACE.total_cost // 3, Random(seed), jitter=0.0) for seed in range(5)}
    assert (len(ends) > 1, len(same)) == (True, 1)
