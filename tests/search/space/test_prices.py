import numpy as np
import pytest

from ranksieve.search.errors import InputError
from ranksieve.search.space.matrix import DENSE, MatrixShape
from ranksieve.search.space.prices import Prices
from ranksieve.search.space.space import SearchSpace
from ranksieve.search.start.seeds import lagrangian


def single() -> tuple[SearchSpace, Prices]:
    space = SearchSpace([MatrixShape(name="m", out_features=8, in_features=8, layer=0, kind="m")], 1)
    return space, Prices(space, [np.array([16.0, 8.0, 4.0, 2.0, 1.0])])


def test_lost_energy_by_hand() -> None:
    _, prices = single()
    assert prices.lost_GL.tolist() == [[31.0, 15.0, 7.0, 3.0, 0.0]]
    assert prices.loss((2,)) == 7.0


def test_moves_by_hand() -> None:
    _, prices = single()
    # levels cost 0, 16, 32, 48, 64: a step from rank 3 to dense saves 3 over 16, the best from there
    assert prices.up_GL.tolist() == [[1, 2, 3, 4, 4]]
    assert prices.up_ratio_GL.tolist() == [[1.0, 0.5, 0.25, 3 / 16, 0.0]]
    # down from dense: 3/16 to rank 3, 7/32 to rank 2, more to the others
    assert prices.down_GL.tolist() == [[0, 0, 1, 2, 3]]
    assert prices.down_ratio_GL.tolist() == [[np.inf, 1.0, 0.5, 0.25, 3 / 16]]


def test_flat_energies_jump_between_none_and_dense() -> None:
    space = SearchSpace([MatrixShape(name="m", out_features=8, in_features=8, layer=0, kind="m")], 1)
    prices = Prices(space, [np.ones(8)])
    # every rank costs 16 and saves 1, dense saves all 8 for 64
    assert prices.up_GL.tolist() == [[4, 4, 4, 4, 4]]
    assert prices.down_GL[0, 4] == 0


def test_falling_prices_make_long_moves_the_best_ones() -> None:
    matrices = [MatrixShape(name="m", out_features=8, in_features=8, layer=0, kind="m")]
    cost = {0: 0, 1: 16, 2: 32, 3: 47, DENSE: 64}
    space = SearchSpace(matrices, 1, price=lambda shape, rank: cost[rank])
    prices = Prices(space, [np.array([16.0, 8.0, 4.0, 2.0, 1.0, 0.9, 0.8, 0.7])])
    # what is lost there: 33.4, 17.4, 9.4, 5.4, 0
    # from rank 2, dense saves 9.4 for 32: more than rank 3 saves, 4 for 15
    assert prices.up_GL.tolist() == [[1, 2, 4, 4, 4]]
    assert prices.up_ratio_GL[0, 2] == pytest.approx(9.4 / 32)
    # and back from dense to rank 2; rank 3 saves too little for what it loses
    assert prices.down_GL[0].tolist() == [0, 0, 1, 2, 2]
    assert prices.down_ratio_GL[0, 4] == pytest.approx(9.4 / 32)


def test_no_other_move_is_a_better_bargain(make_space) -> None:
    space = make_space()
    rng = np.random.default_rng(0)
    prices = Prices(space, [np.sort(rng.lognormal(0, 1, 64))[::-1] for _ in space.matrices])
    for i, count in enumerate(space.counts_G.tolist()):
        lost, params = prices.lost_GL[i], space.params_GL[i]
        for level in range(count):
            rates = [
                (lost[other] - lost[level]) / (params[level] - params[other])
                for other in range(count)
                if other != level
            ]
            down, up = rates[:level], rates[level:]
            assert prices.down_ratio_GL[i, level] == pytest.approx(min(down, default=np.inf))
            assert prices.up_ratio_GL[i, level] == pytest.approx(max(up, default=0.0))
            if down:
                assert down[prices.down_GL[i, level]] == pytest.approx(min(down))
            if up:
                assert up[prices.up_GL[i, level] - level - 1] == pytest.approx(max(up))


def test_a_predicted_optimum_implies_equal_weights(make_problem) -> None:
    problem = make_problem()
    prices = Prices(problem.space, problem.energies)
    genome = lagrangian(problem.space, problem.energies, 0.4)
    assert np.abs(np.log(prices.implied_weights(np.array(genome)))).max() < 0.2


def test_implied_weights_find_the_hidden_ones(make_problem) -> None:
    problem = make_problem(layers=6, rank_step=1)
    genome = lagrangian(problem.space, problem.true_energies, 0.4)
    implied = Prices(problem.space, problem.energies).implied_weights(np.array(genome))
    # a matrix at either end says only that its weight is small, or large, enough
    inside = [0 < level < count - 1 for level, count in zip(genome, problem.space.counts_G, strict=True)]
    assert sum(inside) >= 6
    assert np.corrcoef(np.log(implied[inside]), np.log(problem.weights[inside]))[0, 1] > 0.9


def test_no_interior_matrix_implies_no_weights() -> None:
    _, prices = single()
    assert prices.implied_weights(np.array([4])).tolist() == [1.0]


@pytest.mark.parametrize(
    ("energies", "message"),
    [
        ([], "one array per matrix, 1, got 0"),
        ([np.ones(2)], "at least 3"),
        ([np.ones((3, 1))], "shape"),
        ([np.array([1.0, np.nan, 0.0])], "not finite"),
        ([np.array([1.0, 0.5, -0.1])], "negative"),
        ([np.array([1.0, 2.0, 3.0])], "descend"),
    ],
)
def test_energies_that_do_not_fit_are_refused(energies, message: str) -> None:
    space, _ = single()
    with pytest.raises(InputError, match=message):
        Prices(space, energies)
