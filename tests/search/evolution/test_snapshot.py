from dataclasses import replace

import pytest

from ranksieve.search.errors import ConflictError
from ranksieve.search.evolution.asktell import Generation
from ranksieve.search.evolution.settings import SearchSettings
from ranksieve.search.evolution.snapshot import STATE_VERSION, check, fingerprint, flight_json, prices
from ranksieve.search.space.matrix import DENSE, MatrixShape, Price
from ranksieve.search.space.objectives import MaxDrop, TargetParams
from ranksieve.search.space.space import SearchSpace

SETTINGS = SearchSettings()
OBJECTIVE = TargetParams(share=0.4)


def test_nothing_may_differ(make_space) -> None:
    space = make_space()
    mine = fingerprint(space, OBJECTIVE, SETTINGS)
    assert fingerprint(make_space(), OBJECTIVE, SETTINGS) == mine
    others = [
        fingerprint(make_space(rank_step=8), OBJECTIVE, SETTINGS),
        fingerprint(make_space(layers=3), OBJECTIVE, SETTINGS),
        fingerprint(space, TargetParams(share=0.3), SETTINGS),
        fingerprint(space, MaxDrop(points=0.4), SETTINGS),
        fingerprint(space, OBJECTIVE, replace(SETTINGS, seed=1)),
        fingerprint(space, OBJECTIVE, replace(SETTINGS, overlap=3)),
        fingerprint(space, OBJECTIVE, replace(SETTINGS, generations=99)),
    ]
    assert len({mine, *others}) == len(others) + 1


def test_the_same_levels_of_other_matrices_are_another_search() -> None:
    def space(name: str, width: int) -> SearchSpace:
        shape = MatrixShape(name=name, out_features=20, in_features=width, layer=0, kind="m")
        return SearchSpace([shape], 4, allowed=[(0, 4)])

    spaces = [space("m", 20), space("other", 20), space("m", 24)]
    assert len({str(one.genes) for one in spaces}) == 1
    assert len({fingerprint(one, OBJECTIVE, SETTINGS) for one in spaces}) == 3


def test_a_state_of_another_version_or_search_is_refused() -> None:
    mine = {"version": STATE_VERSION, "fingerprint": "mine", "prices": "2 each"}
    check(mine, "mine", "2 each")
    with pytest.raises(ConflictError, match=r"has version 2, expected 7; submit the job again"):
        check({"version": 2}, "mine", "2 each")
    with pytest.raises(ConflictError, match="another space, objective or setting; submit the job again"):
        check(mine, "yours", "2 each")
    with pytest.raises(ConflictError, match=r"other costs of ranks; submit the job again"):
        check(mine, "mine", "3 each")


def test_prices_tell_apart_what_levels_do_not(make_space) -> None:
    matrices = make_space().matrices

    def priced(dear: str) -> SearchSpace:
        return SearchSpace(
            matrices,
            4,
            price=lambda shape, rank: (3 if shape.kind == dear else 1) * shape.price(rank),
        )

    def swapped(shape: MatrixShape, rank: int) -> int:
        """Only what is not allowed costs something else, and all of it together the same."""
        extra = {"0.q_proj": 9, "1.q_proj": -9}.get(shape.name, 0)
        return shape.price(rank) + (rank == DENSE) * extra

    def without_dense(price: Price | None = None) -> SearchSpace:
        return SearchSpace(matrices, 4, allowed=[(0, 4, 8)] * len(matrices), price=price)

    for spaces in (
        [make_space(), priced("q_proj"), priced("down_proj")],
        [without_dense(), without_dense(swapped)],
    ):
        assert len({fingerprint(space, OBJECTIVE, SETTINGS) for space in spaces}) == 1
        assert len({prices(space) for space in spaces}) == len(spaces)
    assert prices(priced("q_proj")) == prices(priced("q_proj"))


def test_of_a_generation_in_flight_its_candidates_are_kept() -> None:
    (saved,) = flight_json([Generation(number=5, target_share=0.4, candidates=((1, 2), (3, 4)))])
    assert saved == {"generation": 5, "target_share": 0.4, "candidates": [[1, 2], [3, 4]]}
