"""P-values of a candidate's drop: least risks of promising a limit."""

import math

import numpy as np
from numpy.typing import ArrayLike

from ranksieve.search.statistics.samples import CHUNK_DRAWS, drops_of, resampled_means, rises_of

RISK_DRAWS = 40_000
"""Number of draws for p-values, which need tails far from the middle."""
MOST_CONFIDENCE = 0.999
"""Largest confidence that p-values of `RISK_DRAWS` draws support.

No p-value is below 1 / (`RISK_DRAWS` + 1), and a finalist's part of the risk may be a tenth.
"""
GRID = 0.01
"""Points to which drops are rounded up, to limit the number of distinct drops."""


def risk_of_drop(
    dense_scores: ArrayLike, candidate_scores: ArrayLike, limit: float, *, seed: int, draws: int = RISK_DRAWS
) -> float:
    """Return the least risk at which a mean score drops at most `limit` points.

    A candidate that loses more than the limit passes at a risk no more often than that risk. This holds for any
    distribution of the scores and for any number of examples, unlike with a bootstrap, which excludes whatever its
    sample lacks. The p-value is how often the mean is above the limit where examples have random weights (Dirichlet,
    all ones), and one more example has lost everything. If no example gains, this is the binomial test.

    Args:
        dense_scores: The dense model's score on each of N examples, in [0, 1].
        candidate_scores: The candidate's scores, on the same examples in the same order.
        limit: Largest allowed drop, in percentage points.
        seed: Seed of the weights.
        draws: Number of draws.

    Returns:
        A p-value, at least 1 / (draws + 1).

    Raises:
        InputError: Scores do not pair, are not finite or lie outside [0, 1].

    Source: Gaffke 2005, Mathematical Methods of Statistics 14(4); for all distributions, arXiv 2607.08415.
    """
    drops_N = np.ceil(100 / GRID * drops_of(dense_scores, candidate_scores) - 1e-6) * GRID
    drops_U, counts_U = np.unique(drops_N, return_counts=True)
    rng, above = np.random.default_rng(seed), 0
    values_U, shape_U = np.append(drops_U, 100.0), np.append(counts_U, 1)
    chunk = max(1, CHUNK_DRAWS // len(values_U))
    for start in range(0, draws, chunk):
        weights_BU = rng.standard_gamma(shape_U, size=(min(chunk, draws - start), len(shape_U)))
        above += int(np.count_nonzero(weights_BU @ (values_U - limit) > 0))
    return (above + 1) / (draws + 1)


def risk_of_rise(
    dense_nlls: ArrayLike,
    candidate_nlls: ArrayLike,
    tokens: ArrayLike,
    limit: float,
    *,
    seed: int,
    draws: int = RISK_DRAWS,
) -> float:
    """Return the least risk at which perplexity rises at most `limit` percent.

    It is from a paired bootstrap: the rise has no upper end that an exact bound could start from.

    Args:
        dense_nlls: The dense model's negative log-likelihood of each of N examples, in nats.
        candidate_nlls: The candidate's values, on the same examples in the same order.
        tokens: Number of tokens of each example; resampled with it, as perplexity is a ratio of two sums.
        limit: Largest allowed rise, in percent.
        seed: Seed of the resampling.
        draws: Number of bootstrap resamples.

    Returns:
        A p-value, at least 1 / (draws + 1).

    Raises:
        InputError: Numbers do not pair or are not finite.
    """
    rises_N, tokens_N = rises_of(dense_nlls, candidate_nlls, tokens)
    means_B = resampled_means(rises_N, seed, draws, tokens_N)
    return (int(np.count_nonzero(means_B > math.log1p(limit / 100))) + 1) / (draws + 1)


def fewest_examples(limit: float, confidence: float) -> int | None:
    """Return how many examples a lossless candidate needs to pass `risk_of_drop`.

    None if no number suffices.

    Args:
        limit: Largest allowed drop, in percentage points.
        confidence: Required confidence, below 1.
    """
    if limit <= 0:
        return None
    if limit >= 100:
        return 1
    lost = math.log1p(-limit / 100)
    wanted = math.log(1 - confidence) / lost if lost < 0 else math.inf
    return math.ceil(wanted) if math.isfinite(wanted) else None
