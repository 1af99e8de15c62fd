"""Intervals of the metric that a candidate loses.

Shape letters: N examples, B bootstrap resamples.
"""

import math
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ranksieve.search.errors import InputError, ScoringError
from ranksieve.search.statistics.samples import drops_of, finite, resampled_means, rises_of

RESAMPLES = 4000
TWO_SIDED = 0.95
MOST_NATS = 700.0
"""Of a rise per token: the exponential of a little more is no number."""
WILSON_Z = NormalDist().inv_cdf((1 + TWO_SIDED) / 2)


@dataclass(frozen=True, kw_only=True, slots=True)
class DropInterval:
    """Loss of the metric against the dense model, in points, with bounds.

    Bounds are from a bootstrap.

    Args:
        estimate: The drop on the examples at hand; negative where the candidate is better.
        low: Lower end of the two-sided 95 % interval.
        high: Upper end of it.
        upper: One-sided upper bound at `confidence`.
        confidence: Confidence of `upper`.
    """

    estimate: float
    low: float
    high: float
    upper: float
    confidence: float

    def within(self, limit: float) -> bool:
        """Return whether the drop is at most `limit` points, with `confidence`."""
        return self.upper <= limit

    def with_examples(self, times: float) -> "DropInterval":
        """Return the interval expected from `times` as many examples.

        All bounds move towards the estimate by the square root of `times`.
        """
        low, high, upper = (
            self.estimate + (bound - self.estimate) / math.sqrt(times)
            for bound in (self.low, self.high, self.upper)
        )
        return replace(self, low=low, high=high, upper=upper)

    def with_one_lost(self, examples: int) -> "DropInterval":
        """Return the interval with an upper bound for one more, lost example.

        `examples` is the number of examples so far; the added one has lost everything, see `risk_of_drop`.
        """
        return replace(self, upper=self.upper + (100 - self.estimate) / (examples + 1))


def paired_drop(
    dense_scores: ArrayLike,
    candidate_scores: ArrayLike,
    *,
    confidence: float,
    seed: int,
    resamples: int = RESAMPLES,
) -> DropInterval:
    """Return the drop in mean score, with a paired bootstrap over examples.

    Args:
        dense_scores: The dense model's score on each of N examples, in [0, 1].
        candidate_scores: The candidate's scores, on the same examples in the same order.
        confidence: Confidence of the one-sided upper bound, in [0.5, 1).
        seed: Seed of the resampling.
        resamples: Number of bootstrap resamples.

    Returns:
        The drop in percentage points.

    Raises:
        InputError: Scores do not pair, are not finite or lie outside [0, 1].

    Source: Efron and Tibshirani 1993, chapter 13 (percentile interval).
    """
    _check_confidence(confidence)
    drops_N = 100 * drops_of(dense_scores, candidate_scores)
    return _interval(float(drops_N.mean()), resampled_means(drops_N, seed, resamples), confidence)


def perplexity_rise(
    dense_nlls: ArrayLike,
    candidate_nlls: ArrayLike,
    tokens: ArrayLike,
    *,
    confidence: float,
    seed: int,
    resamples: int = RESAMPLES,
) -> DropInterval:
    """Return the rise in perplexity, in percent, with a paired bootstrap.

    Args:
        dense_nlls: The dense model's negative log-likelihood of each of N examples, in nats.
        candidate_nlls: The candidate's values, on the same examples in the same order.
        tokens: As for `risk_of_rise`.
        confidence: Confidence of the one-sided upper bound, in [0.5, 1).
        seed: Seed of the resampling.
        resamples: Number of bootstrap resamples.

    Returns:
        The rise of exp(NLL per token over all examples), as points of drop.

    Raises:
        InputError: Numbers do not pair or are not finite.
        ScoringError: The candidate is so bad that the rise is not finite.
    """
    _check_confidence(confidence)
    rises_N, tokens_N = rises_of(dense_nlls, candidate_nlls, tokens)
    rise, means_B = rises_N.sum() / tokens_N.sum(), resampled_means(rises_N, seed, resamples, tokens_N)
    if max(rise, means_B.max()) > MOST_NATS:
        raise ScoringError(f"perplexity overflows: the loss rises by {rise:.1f} nats per token")
    return _interval(100 * math.expm1(rise), 100 * np.expm1(means_B), confidence)


def mean_interval(scores: ArrayLike) -> tuple[float, float]:
    """Return a two-sided 95 % interval of a mean score.

    Args:
        scores: One score per example.

    Returns:
        Low and high: Wilson's interval where every score is 0 or 1, else a percentile bootstrap.

    Raises:
        InputError: There are no scores, or one is not finite.

    Source: Wilson 1927.
    """
    scores_N = finite("scores", scores)
    if not np.isin(scores_N, (0.0, 1.0)).all():
        tail = (1 - TWO_SIDED) / 2
        low, high = np.quantile(resampled_means(scores_N, 0, RESAMPLES), [tail, 1 - tail])
        return float(low), float(high)
    size, mean, z2 = len(scores_N), float(scores_N.mean()), WILSON_Z**2
    center = (mean + z2 / (2 * size)) / (1 + z2 / size)
    half = WILSON_Z / (1 + z2 / size) * math.sqrt(mean * (1 - mean) / size + z2 / (4 * size**2))
    return max(0.0, center - half), min(1.0, center + half)


def _interval(estimate: float, means_B: NDArray[np.float64], confidence: float) -> DropInterval:
    tail = (1 - TWO_SIDED) / 2
    low, high, upper = np.quantile(means_B, [tail, 1 - tail, confidence])
    return DropInterval(
        estimate=estimate, low=float(low), high=float(high), upper=float(upper), confidence=confidence
    )


def _check_confidence(confidence: float) -> None:
    if not 0.5 <= confidence < 1:
        raise InputError("objective.confidence", f"must be in [0.5, 1), got {confidence}")
