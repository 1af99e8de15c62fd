import pytest

from ranksieve.search.errors import InputError
from ranksieve.search.space.matrix import DENSE, MatrixShape
from ranksieve.search.space.space import SearchSpace


def matrix(out_features: int, in_features: int, name: str = "m") -> MatrixShape:
    return MatrixShape(name=name, out_features=out_features, in_features=in_features, layer=0, kind="m")


def ladders(space: SearchSpace) -> tuple[tuple[int, ...], ...]:
    """The ranks of genes of one matrix each."""
    return tuple(tuple(rank for (rank,) in gene.levels) for gene in space.genes)


def test_levels_stop_strictly_below_break_even() -> None:
    # 8·8/(8+8) = 4 exactly: rank 4 costs as much as dense and is no level
    assert ladders(SearchSpace([matrix(8, 8)], 1)) == ((0, 1, 2, 3, DENSE),)
    # 6·3/9 = 2
    assert ladders(SearchSpace([matrix(6, 3)], 1)) == ((0, 1, DENSE),)
    # 576·192/768 = 144
    assert ladders(SearchSpace([matrix(192, 576)], 48)) == ((0, 48, 96, DENSE),)


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (2, 2), (16, 16), (7, 30), (30, 7)])
def test_prices_rise_with_the_rank_and_stay_below_dense(shape: tuple[int, int]) -> None:
    one = matrix(*shape)
    largest = one.largest_rank
    prices = [one.price(rank) for rank in (*range(largest + 1), DENSE)]
    assert prices == sorted(set(prices))
    assert one.price(largest + 1) >= one.dense_params


def test_without_a_multiple_of_the_step_only_none_and_dense_remain() -> None:
    assert ladders(SearchSpace([matrix(8, 8)], 16)) == ((0, DENSE),)
    assert ladders(SearchSpace([matrix(1, 1)], 1)) == ((0, DENSE),)


def test_prices_by_hand() -> None:
    space = SearchSpace([matrix(8, 8, "a"), matrix(4, 12, "b")], 1)

    # a: 0, 16, 32, 48, dense 64; b: 0, 16, 32, dense 48 (break-even 3)
    assert space.params_GL.tolist() == [[0, 16, 32, 48, 64], [0, 16, 32, 48, 48]]
    assert space.counts_G.tolist() == [5, 4]
    assert space.total_params == 112
    assert space.largest_genome == (4, 3)
    assert space.params(space.largest_genome) == 112
    assert space.params((2, 1)) == 48
    assert space.kept_share((2, 1)) == 48 / 112
    assert space.ranks((2, 3)) == (2, DENSE)
    assert space.cost_at(1, 3) == 48


def test_budget_is_exact_for_shares_that_floats_miss() -> None:
    space = SearchSpace([matrix(10, 10)], 1)
    assert space.budget(0.29) == 29  # 0.29 * 100 is 28.999999999999996
    assert space.budget(1.0) == 100


@pytest.mark.parametrize(
    ("genome", "message"),
    [
        ((0,), "must hold 2 levels"),
        ((0, 9), r"level of b must be in \[0, 4\], got 9"),
        ((-1, 0), "level of a"),
    ],
)
def test_a_genome_of_another_space_is_refused(genome: tuple[int, ...], message: str) -> None:
    space = SearchSpace([matrix(8, 8, "a"), matrix(8, 8, "b")], 1)
    with pytest.raises(InputError, match=message):
        space.ranks(genome)


def test_only_a_genome_without_any_rank_is_the_dense_model() -> None:
    """What is dense keeps every promise: one that has a dense matrix does not."""
    shapes = [MatrixShape(name=name, out_features=20, in_features=20, layer=0, kind=name) for name in "ab"]
    space = SearchSpace(shapes, 2)
    top = [len(gene.levels) - 1 for gene in space.genes]
    assert space.is_dense((top[0], top[1]))
    assert not space.is_dense((top[0], 1))
    assert not space.is_dense((1, top[1]))
    assert not space.is_dense((1, 1))


def test_impossible_spaces_are_refused() -> None:
    with pytest.raises(InputError, match="rank_step"):
        SearchSpace([matrix(8, 8)], 0)
    with pytest.raises(InputError, match="no matrix"):
        SearchSpace([], 1)
    with pytest.raises(InputError, match="same name"):
        SearchSpace([matrix(8, 8), matrix(8, 8)], 1)
    with pytest.raises(InputError, match="positive widths"):
        matrix(0, 8)
    with pytest.raises(InputError, match="share"):
        SearchSpace([matrix(8, 8)], 1).budget(1.5)
