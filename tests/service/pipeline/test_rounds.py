"""Which records rounds look at, and where the next one is."""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tuning import tune

from ranksieve.search.errors import ScoringError
from ranksieve.search.space.objectives import MaxDrop
from ranksieve.search.start.descent import RUNG
from ranksieve.search.statistics.intervals import DropInterval
from ranksieve.service.pipeline.rounds.records import (
    DESCENT_EXAMPLES,
    FURTHEST,
    RoundRecords,
    holds,
    next_stair,
    records_of,
)
from ranksieve.service.pipeline.scoring import Candidate
from ranksieve.service.spec import JobSpec
from ranksieve.workers.factors.propagation import MOST_EXAMPLES
from ranksieve.workers.types.scores import Failure


def test_parts_follow_one_another_round_and_round_and_a_rest_is_left_out() -> None:
    parts = [RoundRecords(indices=range(10, 33)).part(10, number) for number in range(3)]
    assert parts == [range(10, 20), range(20, 30), range(10, 20)]


def test_a_part_is_all_where_there_are_fewer() -> None:
    assert RoundRecords(indices=range(3, 8)).part(10, 4) == range(3, 8)


@pytest.mark.parametrize(("more", "shares", "first"), [(0, None, MOST_EXAMPLES), (-1, None, 0), (0, [], 0)])
def test_records_that_errors_were_propagated_on_are_left_out_where_others_are_enough(
    tiny_job: dict[str, Any], more: int, shares: list[float] | None, first: int
) -> None:
    tiny_job["policy"]["propagated_shares"] = shares
    tiny_job["objective"] = {"kind": "max_drop", "points": 5}
    calibration = MOST_EXAMPLES + DESCENT_EXAMPLES + more
    expected = RoundRecords(indices=range(first, calibration), confidence=0.8)
    assert records_of(JobSpec.model_validate(tune(tiny_job)), calibration) == expected


def test_answers_that_are_to_be_written_are_not_told(tiny_job: dict[str, Any]) -> None:
    tiny_job["task"] |= {"kind": "generate", "choices": None, "max_new_tokens": 4}
    assert records_of(JobSpec.model_validate(tune(tiny_job)), 20) == RoundRecords(indices=range(20))


@pytest.mark.parametrize(
    ("shares", "held", "expected"),
    [
        ([0.5], True, 0.47),
        ([0.5], False, 0.53),
        ([0.25], True, 0.235),
        ([0.2], True, 0.19),
        ([0.25, 0.235], True, 0.22),
        ([0.25, 0.235], False, 0.24),
        ([0.25, 0.265], True, 0.255),
        ([0.25, 0.265, 0.255], True, 0.245),
        ([0.25, 0.265, 0.255, 0.245], True, 0.23),
        ([0.25, 0.265, 0.255, 0.245, 0.23], True, 0.2),
        ([0.25, 0.265, 0.255, 0.245, 0.23], False, 0.235),
        ([0.2, 0.19, 0.18], True, 0.16),
        ([0.2, 0.19, 0.18, 0.16], True, 0.14),
        ([0.2, 0.19, 0.18, 0.16, 0.14], False, 0.15),
        ([0.02], True, 0.015),
        ([0.005], True, 0.005),
        ([0.99], False, 1.0),
    ],
)
def test_stairs_lead_down_where_it_held_smaller_after_a_turn_and_larger_one_way(
    shares: list[float], held: bool, expected: float
) -> None:
    assert next_stair(shares, held=held) == pytest.approx(expected)


def walked(limit: float, start: float, steps: int) -> list[float]:
    shares = [start]
    for _ in range(steps):
        shares.append(next_stair(shares, held=shares[-1] >= limit))
    return shares


@given(limit=st.floats(0.1, 0.9), start=st.floats(0.05, 0.95))
def test_stairs_come_to_where_it_changes_and_stay_there(limit: float, start: float) -> None:
    shares = walked(limit, start, 100)
    near: Sequence[float] = shares[-10:]
    assert max(near) - limit < FURTHEST + RUNG
    assert limit - min(near) < FURTHEST + RUNG
    assert min(near) < limit <= max(near)


def test_a_genome_whose_drop_is_no_number_does_not_hold() -> None:
    class Overflowing:
        def score_candidates(self, candidates: Sequence[Candidate], split: str) -> list[str]:
            return ["scores"] * len(candidates)

        def drop(self, *_: Any, **__: Any) -> DropInterval:
            raise ScoringError("perplexity overflows: the loss rises by 800.0 nats per token")

    scorer: Any = Overflowing()
    assert holds((0,), MaxDrop(points=2.0), scorer, 0.8) is False


def test_a_genome_that_cannot_be_scored_does_not_hold() -> None:
    class Failing:
        def score_candidates(self, candidates: Sequence[Candidate], split: str) -> list[Failure]:
            return [Failure(reason="not finite")]

    scorer: Any = Failing()
    assert holds((0,), MaxDrop(points=2.0), scorer, 0.8) is False
