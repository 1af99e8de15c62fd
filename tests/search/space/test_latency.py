"""Prices in time: tables made by hand, and what a search makes of them."""

import itertools
from collections.abc import Sequence
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ranksieve.search.errors import InputError
from ranksieve.search.evolution.evolution import Evolution
from ranksieve.search.evolution.operators.mutation import mutate
from ranksieve.search.evolution.outcome import Outcome
from ranksieve.search.evolution.schedules import schedule_for
from ranksieve.search.evolution.settings import SearchSettings
from ranksieve.search.space.constraints import Constraint, constrained
from ranksieve.search.space.latency import Curve, LatencyTable, isotonic
from ranksieve.search.space.matrix import DENSE, MatrixShape
from ranksieve.search.space.objectives import TargetLatency
from ranksieve.search.space.prices import Prices
from ranksieve.search.space.repair import repair
from ranksieve.search.space.space import SearchSpace
from ranksieve.search.start.seeds import lagrangian, uniform

OTHER = 1000
FAST, SLOW = "fast", "slow"
MATRICES = [
    MatrixShape(name=f"{i}.{kind}", out_features=16, in_features=16, layer=i, kind=kind)
    for i in range(4)
    for kind in (FAST, SLOW)
]
RANKS = (0, 2, 4, 6)
CURVES = {
    FAST: Curve(
        ranks=RANKS,
        nanoseconds=(0, 20, 40, 60),
        dense_nanoseconds=100,
        matrices=tuple(m.name for m in MATRICES if m.kind == FAST),
    ),
    SLOW: Curve(
        ranks=RANKS,
        nanoseconds=(0, 80, 160, 240),
        dense_nanoseconds=400,
        matrices=tuple(m.name for m in MATRICES if m.kind == SLOW),
    ),
}
TABLE = LatencyTable(curves=tuple(CURVES.values()), other_nanoseconds=OTHER)
ENERGIES = [np.arange(16, 0, -1, dtype=np.float64) ** 2] * len(MATRICES)


@pytest.fixture
def space() -> SearchSpace:
    return SearchSpace(MATRICES, 2, price=TABLE.price)


def curve(*nanoseconds: int, dense: int = 1000, ranks: Sequence[int] = RANKS) -> Curve:
    return Curve(
        ranks=tuple(ranks), nanoseconds=nanoseconds, dense_nanoseconds=dense, matrices=("0.fast", "1.fast")
    )


def test_between_measured_ranks_a_curve_is_a_line() -> None:
    one = curve(0, 30, 100, ranks=(0, 2, 16), dense=90)
    assert [one.at(rank) for rank in (0, 1, 2, 9, 16, DENSE)] == [0, 15, 30, 65, 100, 90]
    with pytest.raises(InputError, match="at most 16, got 17"):
        one.at(17)


@pytest.mark.parametrize(
    ("ranks", "nanoseconds"),
    [((2, 4), (0, 1)), ((0, 4, 2), (0, 1, 2)), ((0, 2), (0,)), ((0, 2), (1, 2)), ((0, 2, 4), (0, 2, 1))],
)
def test_what_is_no_curve_is_refused(ranks: tuple[int, ...], nanoseconds: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="latency"):
        curve(*nanoseconds, ranks=ranks)


def test_a_table_adds_up() -> None:
    assert TABLE.dense_nanoseconds == OTHER + 4 * 100 + 4 * 400
    ranks = [4, DENSE] + [0] * 6
    assert TABLE.nanoseconds(MATRICES, ranks) == OTHER + 40 + 400
    with pytest.raises(InputError, match="not measured; the table may belong to another model"):
        TABLE.price(MatrixShape(name="x", out_features=1, in_features=1, layer=0, kind="x"), 0)


def test_what_falls_is_pooled() -> None:
    assert isotonic([1, 3, 2, 2, 5]) == [
        1,
        pytest.approx(7 / 3),
        pytest.approx(7 / 3),
        pytest.approx(7 / 3),
        5,
    ]
    assert isotonic([3, 2, 1]) == [2, 2, 2]


@given(st.lists(st.floats(0, 1e9), min_size=1, max_size=30))
def test_pooled_times_never_fall_and_are_as_long_in_all(values: list[float]) -> None:
    risen = isotonic(values)
    assert all(low <= high for low, high in itertools.pairwise(risen))
    assert sum(risen) == pytest.approx(sum(values))
    assert isotonic(risen) == pytest.approx(risen)
    if values == sorted(values):
        assert risen == values


def test_ranks_that_are_as_slow_as_higher_ones_or_as_dense_are_no_levels() -> None:
    flat = LatencyTable(curves=(curve(0, 50, 50, 80, dense=80),), other_nanoseconds=0)
    space = SearchSpace([m for m in MATRICES if m.name in ("0.fast", "1.fast")], 2, price=flat.price)
    assert space.genes[0].levels == ((0,), (4,), (DENSE,))
    assert space.total_cost == 160


def test_a_space_in_time_keeps_counting_parameters(space: SearchSpace) -> None:
    assert space.total_cost == TABLE.dense_nanoseconds - OTHER
    assert space.kept_share(space.largest_genome) == 1
    genome = (1, 0) * 4  # rank 2 of the fast ones: 64 of 256 numbers each, half of all matrices
    assert space.kept_share(genome) == 0.125
    assert space.cost(genome) == 4 * 20


def test_what_is_slow_gives_more(space: SearchSpace) -> None:
    """All matrices are as large and matter as much; in parameters no kind is preferred."""
    genome = np.array(lagrangian(space, ENERGIES, 0.5))
    fast, slow = genome[::2], genome[1::2]
    assert fast.min() > slow.max()
    in_params = np.array(lagrangian(SearchSpace(MATRICES, 2), ENERGIES, 0.5))
    assert abs(in_params[::2].mean() - in_params[1::2].mean()) <= 1
    assert space.cost(genome) <= space.budget(0.5)
    assert space.cost(uniform(space, 0.5)) <= space.budget(0.5)


@given(st.integers(0, 2**16), st.floats(0.05, 0.95))
def test_operators_keep_a_budget_of_time(seed: int, share: float) -> None:
    space, rng = SearchSpace(MATRICES, 2, price=TABLE.price), Random(seed)
    genome = tuple(rng.randrange(int(count)) for count in space.counts_G)
    repaired = repair(Prices(space, ENERGIES), mutate(space, genome, rng), space.budget(share), rng)
    assert space.cost(space.validate(repaired)) <= space.budget(share)


def test_a_latency_leaves_what_the_rest_does_not_take(space: SearchSpace) -> None:
    wanted = TargetLatency(nanoseconds=2000, other_nanoseconds=OTHER)
    assert space.budget(wanted.target(space)) == 1000


@pytest.mark.parametrize("nanoseconds", [500_000, 999_999, 3_000_000, 10**10])
def test_a_latency_out_of_reach_is_refused_with_the_numbers(nanoseconds: int) -> None:
    curves = tuple(
        curve(*(1000 * n for n in one.nanoseconds), dense=1000 * one.dense_nanoseconds) for one in CURVES.values()
    )  # fmt: skip
    named = [
        Curve(
            ranks=one.ranks, nanoseconds=one.nanoseconds, dense_nanoseconds=one.dense_nanoseconds, matrices=names
        )
        for one, names in zip(curves, (CURVES[FAST].matrices, CURVES[SLOW].matrices), strict=True)
    ]  # fmt: skip
    table = LatencyTable(curves=tuple(named), other_nanoseconds=1_000_000)
    space = SearchSpace(MATRICES, 2, price=table.price)
    wanted = TargetLatency(nanoseconds=nanoseconds, other_nanoseconds=1_000_000, field="objective.share")
    with pytest.raises(InputError) as caught:
        schedule_for(wanted, space, patience=2)
    assert caught.value.field == "objective.share"
    for words in ("at least 1.000 ms", "less than the dense model's 3.000 ms", "0.000 ms of matrices"):
        assert words in caught.value.message


def test_a_search_for_a_latency_stays_within_it_and_resumes_by_the_same_table(space: SearchSpace) -> None:
    objective: Any = TargetLatency(nanoseconds=2000, other_nanoseconds=OTHER)
    settings = SearchSettings(population=3, offspring=6, full=8, generations=4, max_evaluations=60)
    evolution = Evolution(space, ENERGIES, objective, settings)
    prices, memo = Prices(space, ENERGIES), []
    while not evolution.finished:
        trials = evolution.ask()
        assert all(TABLE.nanoseconds(MATRICES, space.ranks(t.genome)) <= 2000 for t in trials)
        outcomes = [
            Outcome(
                genome=trial.genome,
                examples=8,
                kl_nats=prices.loss(trial.genome),
                drop_points=0.0,
                metric=0.5,
            )
            for trial in trials
        ]
        memo += outcomes
        evolution.tell(outcomes)
        while evolution.retire() is not None:
            pass
    assert evolution.incumbent is not None
    resumed = Evolution(space, ENERGIES, objective, settings, memo=memo, state=evolution.state())
    assert resumed.incumbent == evolution.incumbent


def test_a_matrix_that_takes_no_time_dense_and_may_not_be_dense_spends_nobody_elses_budget() -> None:
    free, slow = (
        MatrixShape(name=name, out_features=8, in_features=8, layer=0, kind=name) for name in (FAST, SLOW)
    )
    curves = [
        Curve(ranks=(0, 1, 2, 3), nanoseconds=(0, 5, 10, 15), dense_nanoseconds=dense, matrices=(name,))
        for name, dense in ((FAST, 0), (SLOW, 40))
    ]
    table = LatencyTable(curves=tuple(curves), other_nanoseconds=OTHER)
    capped = Constraint(field="constraints.0", matrices=(FAST,), max_density=0.8)
    space = constrained([free, slow], 1, [capped], table.price)
    assert space.cost(uniform(space, 1.0)) == space.budget(1.0)
