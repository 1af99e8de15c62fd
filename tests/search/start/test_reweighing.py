import numpy as np
import pytest

from ranksieve.search.space.matrix import MatrixShape
from ranksieve.search.space.prices import Prices
from ranksieve.search.space.space import SearchSpace
from ranksieve.search.start.reweighing import BOUNDS, RATE, STEP, next_weights, settled, weighted
from ranksieve.search.start.seeds import lagrangian

ENERGY = np.array([8.0, 4.0, 2.0, 1.0])


def once(kept: float, cut: float, weight: float = 1.0, window: tuple[int, int, int] = (1, 2, 3)) -> float:
    (moved,) = next_weights(np.array([weight]), [ENERGY], [window], np.array([kept]), np.array([cut]))
    return float(moved)


def test_slopes_as_predicted_change_nothing() -> None:
    assert once(kept=0.0, cut=-2.0) == 1.0


def test_a_weight_goes_some_of_the_way_to_what_was_measured() -> None:
    assert once(kept=-0.3, cut=-2.3) == pytest.approx(1 + RATE * 0.2)  # 3.6 measured, 3 predicted
    assert once(kept=0.3, cut=-1.7) == pytest.approx(1 - RATE * 0.2)
    assert once(kept=-1.5, cut=-3.5, weight=2.0) == pytest.approx(2.0)  # 6 measured: it is twice as dear


def test_no_step_is_large_and_no_weight_leaves_its_bounds() -> None:
    assert once(kept=-1e6, cut=0.0) == STEP[1]
    assert once(kept=1e6, cut=0.0) == STEP[0]
    assert once(kept=-1e6, cut=0.0, weight=4.9) == BOUNDS[1]
    assert once(kept=1e6, cut=0.0, weight=0.21) == BOUNDS[0]


@pytest.mark.parametrize("window", [(0, 0, 0), (4, 4, 4)])
def test_what_was_not_looked_at_keeps_its_weight(window: tuple[int, int, int]) -> None:
    assert once(kept=0.0, cut=0.0, weight=1.7, window=window) == 1.7


@pytest.mark.parametrize(("rounds", "averaged"), [(1, 1), (2, 1), (3, 2), (5, 3), (8, 4), (16, 8)])
def test_the_last_half_of_the_rounds_is_averaged(rounds: int, averaged: int) -> None:
    weights = [np.array([2.0**r, 1.0]) for r in range(rounds)]
    assert settled(weights) == pytest.approx([2.0 ** (rounds - 1 - (averaged - 1) / 2), 1.0])


def test_rounds_find_weights_that_the_energies_do_not_know() -> None:
    rng = np.random.default_rng(0)
    shapes = [MatrixShape(name=f"{i}", out_features=64, in_features=64, layer=i, kind="m") for i in range(12)]
    space = SearchSpace(shapes, 2)
    energies = [rng.lognormal() * np.arange(1, 65) ** -1.0 for _ in shapes]
    hidden = rng.lognormal(0, 0.5, len(shapes))
    true = Prices(space, weighted(energies, hidden))

    def loss(weights: np.ndarray) -> float:
        return true.loss(lagrangian(space, weighted(energies, weights), 0.3))

    weights = np.ones(len(shapes))
    for _ in range(12):
        ranks = space.ranks(lagrangian(space, weighted(energies, weights), 0.3))
        windows = [
            (max(0, rank - 4), rank, min(31, rank + 4)) for rank in (r if r >= 0 else 31 for r in ranks)
        ]
        # a loss that is quadratic in every gate: no slope at what is kept, the whole energy at what is cut
        cut = [-w * e[r:stop].sum() for w, e, (_, r, stop) in zip(hidden, energies, windows, strict=True)]
        weights = next_weights(weights, energies, windows, np.zeros(len(shapes)), np.array(cut))
    best, start = loss(hidden), loss(np.ones(len(shapes)))
    assert loss(weights) - best < 0.35 * (start - best)
