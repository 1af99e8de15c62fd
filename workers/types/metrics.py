"""Task metrics as pure functions of plain numbers and texts.

Knows nothing of models. Accuracy, exact match and F1 are shares in 0..1; perplexity is at least 1.
"""

import math
import re
import string
from collections import Counter
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Literal

from ranksieve.search.errors import ScoringError

Kind = Literal["choice", "generate", "lm"]

METRIC_NAMES: Mapping[Kind, str] = MappingProxyType(
    {"choice": "accuracy", "generate": "token_f1", "lm": "perplexity"}
)

FIELD_F1 = "field_f1"
"""Metric of written answers that are JSON objects."""

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalize_answer(text: str) -> str:
    """Normalize an answer: lower case, no punctuation or articles, single spaces.

    Source: arXiv 1606.05250 (SQuAD), section 6.1.
    """
    bare = text.lower().translate(_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", bare).split())


def exact_match(prediction: str, references: Sequence[str]) -> float:
    """Return 1.0 if the prediction equals a reference, else 0.0.

    Both are normalized by `normalize_answer`.
    """
    return float(normalize_answer(prediction) in {normalize_answer(reference) for reference in references})


def token_f1(prediction: str, references: Sequence[str]) -> float:
    """Return the best F1 of word overlap with a reference, 0..1.

    Two answers without words agree.

    Source: arXiv 1606.05250 (SQuAD), section 6.1.
    """
    words = normalize_answer(prediction).split()
    return max((_f1(words, normalize_answer(reference).split()) for reference in references), default=0.0)


def _f1(predicted: list[str], expected: list[str]) -> float:
    if not predicted or not expected:
        return float(predicted == expected)
    common = (Counter(predicted) & Counter(expected)).total()
    return 2 * common / (len(predicted) + len(expected))


def perplexity(nll_nats: float, tokens: int) -> float:
    """Return the exponential of the mean negative log-likelihood per token.

    Args:
        nll_nats: Sum over all predicted tokens.
        tokens: Number of predicted tokens.

    Raises:
        ScoringError: There is no token, or the result is not finite.
    """
    if tokens < 1 or not math.isfinite(nll_nats):
        raise ScoringError(f"perplexity of {nll_nats} nats over {tokens} tokens is undefined")
    try:
        return math.exp(nll_nats / tokens)
    except OverflowError as error:
        raise ScoringError(f"perplexity overflows at {nll_nats / tokens:.1f} nats per token") from error


def drop_unit(metric_name: str) -> str:
    """Return the unit in which `drop_points` counts a metric."""
    return "% of perplexity" if metric_name == METRIC_NAMES["lm"] else "points"


def drop_points(kind: Kind, dense_metric: float, metric: float) -> float:
    """Return how much worse than dense a metric is, in points; negative if better.

    Points are percentage points of accuracy or F1. For `lm` they are percent of the dense perplexity.
    """
    if kind == "lm":
        return 100 * (metric / dense_metric - 1)
    return 100 * (dense_metric - metric)
