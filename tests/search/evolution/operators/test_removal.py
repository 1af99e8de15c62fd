from collections import Counter
from random import Random

import numpy as np
import pytest

from ranksieve.search.evolution.operators.removal import removable, removals, remove
from ranksieve.search.space.genes import Tie
from ranksieve.search.space.matrix import DENSE, MatrixShape
from ranksieve.search.space.prices import Prices
from ranksieve.search.space.repair import repair
from ranksieve.search.space.space import SearchSpace

KINDS = ("attn.q", "attn.o", "mlp.up", "mlp.down", "router")
MATRICES = [
    MatrixShape(name=f"{layer}.{kind}", out_features=16, in_features=16, layer=layer, kind=kind)
    for layer in range(2)
    for kind in KINDS
]
SPACE = SearchSpace(MATRICES, 2)
WORTH = {"0.attn": 4.0, "0.mlp": 2.0, "1.attn": 8.0, "1.mlp": 1.0}


def prices(space: SearchSpace = SPACE) -> Prices:
    """Sublayers are worth what `WORTH` says, as long as both of their matrices are at level 2."""
    return Prices(
        space,
        [
            np.array([WORTH.get(shape.name.rpartition(".")[0], 9.0) / 2, *[0.0] * 15])
            for shape in space.matrices
        ],
    )


def without(*gone: str) -> tuple[int, ...]:
    return tuple(0 if shape.name.startswith(gone) else 2 for shape in MATRICES)


def test_sublayers_are_the_modules_of_a_block() -> None:
    assert SPACE.sublayers == ((0, 1), (2, 3), (5, 6), (7, 8))


def test_a_sublayer_stays_whose_matrices_may_not_go_or_that_others_are_tied_to() -> None:
    allowed = [shape.grid(2) for shape in MATRICES]
    allowed[0] = (2, 4, DENSE)  # never gone
    allowed[2] = (0,)  # gone, and no gene
    allowed[5] = (DENSE,)
    space = SearchSpace(
        MATRICES,
        2,
        allowed=allowed,
        ties=[Tie(members=(3, 9), field="search.constraints.0.tied")],
    )
    names = [[space.matrices[space.genes[i].members[0]].name for i in genes] for genes in space.sublayers]
    assert names == [["1.mlp.up", "1.mlp.down"]]
    alone = SearchSpace(MATRICES, 2, allowed=allowed)
    assert [len(genes) for genes in alone.sublayers] == [1, 2]


def test_removals_begin_with_the_least_predicted_loss() -> None:
    whole = without()
    assert removals(prices(), whole) == [without(gone) for gone in ("1.mlp", "0.mlp", "0.attn", "1.attn")]
    assert whole == (2,) * len(MATRICES)
    assert removals(prices(), without("1.mlp", "0.attn")) == [
        without("1.mlp", "0.attn", "0.mlp"),
        without("1.mlp", "0.attn", "1.attn"),
    ]


def test_half_the_predicted_loss_is_removed_twice_as_often() -> None:
    rng = Random(0)
    removed = Counter(remove(prices(), without(), rng) for _ in range(3000))
    shares = [removed[without(gone)] / 3000 for gone in ("1.mlp", "0.mlp", "0.attn", "1.attn")]
    np.testing.assert_allclose(shares, np.array([8, 4, 2, 1]) / 15, atol=0.03)


def test_what_is_gone_is_not_removed_again() -> None:
    gone = without("0.attn", "0.mlp", "1.attn", "1.mlp")
    assert not removable(SPACE, gone)
    assert removals(prices(), gone) == []
    with pytest.raises(ValueError, match="empty"):
        remove(prices(), gone, Random(0))
    assert removable(SPACE, without())
    half = tuple(2 if i == 3 else level for i, level in enumerate(gone))
    assert remove(prices(), half, Random(0)) == gone


def test_repair_spends_what_a_removal_saved_elsewhere() -> None:
    """No gene is fixed: what is gone stays gone by itself, however good a bargain its first step would be."""
    falling = Prices(SPACE, [1 / np.arange(1, 17) for _ in MATRICES])
    for gone in removals(falling, without()):
        genes = [i for i, level in enumerate(gone) if level == 0]
        for seed in range(5):
            repaired = repair(falling, gone, SPACE.cost(without()), Random(seed))
            assert [repaired[i] for i in genes] == [0, 0]
            assert SPACE.cost(repaired) == SPACE.cost(without())


def test_what_is_gone_comes_back_where_nothing_else_has_room() -> None:
    whole = repair(prices(), SPACE.smallest_genome, SPACE.total_cost, Random(0))
    assert whole == SPACE.largest_genome
