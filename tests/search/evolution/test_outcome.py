import itertools
import json
import math

import pytest

from ranksieve.search.errors import ScoringError
from ranksieve.search.evolution.outcome import Outcome, Trial


def outcome(**changes: object) -> Outcome:
    fields = {
        "genome": (1, 2),
        "examples": 8,
        "kl_nats": 0.1,
        "drop_points": 1.5,
        "metric": 0.8,
        "tokens": 99,
    }
    return Outcome(**{**fields, **changes})  # type: ignore[arg-type]


def test_json_round_trip() -> None:
    scored = outcome(seconds=0.25)
    assert Outcome.from_json(json.loads(json.dumps(scored.to_json()))) == scored


def test_a_stored_row_reads_back_without_its_extra_columns() -> None:
    row = {**outcome().to_json(), "generation": 3, "kept_share": 0.5}
    assert Outcome.from_json(row) == outcome()


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("kl_nats", None),
        *itertools.product(
            ["kl_nats", "loss_nats", "drop_points", "drop_bound", "metric"], [math.nan, math.inf]
        ),
    ],
)
def test_a_score_without_a_number_is_refused(name: str, number: float | None) -> None:
    with pytest.raises(ScoringError, match=f"{name} must be a finite number"):
        outcome(**{name: number})


@pytest.mark.parametrize("name", ["drop_points", "metric"])
def test_a_scored_genome_has_a_metric_and_what_it_loses(name: str) -> None:
    with pytest.raises(ScoringError, match=f"{name} must be a finite number, got None"):
        outcome(**{name: None})


def test_a_failure_is_the_worst_and_never_a_pass() -> None:
    failed = Outcome.failed(Trial(genome=(1, 2), examples=8), "logits are NaN", tokens=7)
    assert failed.fitness == math.inf
    assert not failed.within(100.0)
    assert failed.trial == Trial(genome=(1, 2), examples=8)
    assert Outcome.from_json(failed.to_json()) == failed
    with pytest.raises(ScoringError, match="of a scored trial"):
        outcome(failure="boom")


def test_within_includes_the_limit() -> None:
    assert outcome(drop_points=2.0).within(2.0)
    assert not outcome(drop_points=2.1).within(2.0)


def test_where_there_is_a_bound_it_decides() -> None:
    assert not outcome(drop_points=1.0, drop_bound=3.0).within(2.0)
    assert outcome(drop_points=1.0, drop_bound=2.0).within(2.0)
