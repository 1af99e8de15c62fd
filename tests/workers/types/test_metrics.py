import math

import pytest

from ranksieve.search.errors import ScoringError
from ranksieve.workers.types import metrics


@pytest.mark.parametrize(
    ("text", "expected"),
    [("The  Cat, sat!", "cat sat"), ("a an the", ""), ("theatre", "theatre"), ("U.S.A.", "usa"), ("", "")],
)
def test_normalize_answer(text: str, expected: str) -> None:
    assert metrics.normalize_answer(text) == expected


def test_exact_match() -> None:
    assert metrics.exact_match(" the Eiffel tower.", ["Paris", "Eiffel Tower"]) == 1.0
    assert metrics.exact_match("tower", ["Eiffel Tower"]) == 0.0


@pytest.mark.parametrize(
    ("prediction", "references", "expected"),
    [
        ("Eiffel Tower", ["the Eiffel tower"], 1.0),
        ("big Eiffel tower", ["Eiffel tower Paris"], 2 / 3),
        ("x x", ["x"], 2 / 3),
        ("no", ["yes", "no"], 1.0),
        ("a", ["the"], 1.0),
        ("word", ["the"], 0.0),
        ("word", [], 0.0),
    ],
)
def test_token_f1(prediction: str, references: list[str], expected: float) -> None:
    assert metrics.token_f1(prediction, references) == pytest.approx(expected)


def test_perplexity() -> None:
    assert metrics.perplexity(4 * math.log(3), 4) == pytest.approx(3)
    for nll, tokens in [(1.0, 0), (math.nan, 3), (math.inf, 3), (1e6, 1)]:
        with pytest.raises(ScoringError, match="perplexity"):
            metrics.perplexity(nll, tokens)


def test_drop_points() -> None:
    assert metrics.drop_points("choice", 0.8, 0.78) == pytest.approx(2)
    assert metrics.drop_points("generate", 0.5, 0.6) == pytest.approx(-10)
    assert metrics.drop_points("lm", 10.0, 11.0) == pytest.approx(10)
    assert set(metrics.METRIC_NAMES) == {"choice", "generate", "lm"}
