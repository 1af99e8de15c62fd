"""The least risk at which a candidate can be promised to lose no more than a limit: p-values of its drop."""

import math

import numpy as np
from numpy.typing import ArrayLike

from ranksieve.search.statistics.samples import CHUNK_DRAWS, drops_of, resampled_means, rises_of

RISK_DRAWS = 40_000
"""For p-values, of which those far from even tell."""
MOST_CONFIDENCE = 0.999
"""No p-value is below 1 / (`RISK_DRAWS` + 1), and a finalist's part of the risk may be a tenth."""
GRID = 0.01
"""Points to which drops are rounded up there, so that many records have no more different ones than that."""
FIRST_LOOK = 0.02
"""Of the risk of a candidate, that it is let through at by some of the examples, before all are looked at: what holds
at so little holds by far, and the others miss it by a hair at most."""


def risk_of_drop(
    dense_scores: ArrayLike, candidate_scores: ArrayLike, limit: float, *, seed: int, draws: int = RISK_DRAWS
) -> float:
    """The least risk at which a drop in mean score can be said to be at most so many points.

    Whatever the scores are distributed like, and however few they are, a candidate that loses more than the limit is
    let through at a risk no more often than that; of a bootstrap, which is certain of what its sample has none of, this
    is not so. It is how often the mean is above the limit where examples have random weights (Dirichlet, all ones), and
    one more example has lost everything. Where no example gains, this is the binomial test.

    Args:
        dense_scores: The dense model's score on each of N examples, in [0, 1].
        candidate_scores: The candidate's, on the same examples in the same order.
        limit: In percentage points.
        seed: Of the weights.
        draws: How often they are drawn.

    Returns:
        A p-value, at least 1 / (draws + 1).

    Raises:
        InputError: Scores that do not pair, are not finite or lie outside [0, 1].

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
    """The least risk at which a rise in perplexity can be said to be at most so many percent.

    By a paired bootstrap: the rise has no upper end that a sure bound could start from.

    Args:
        dense_nlls: The dense model's negative log-likelihood of each of N examples, in nats.
        candidate_nlls: The candidate's, on the same examples in the same order.
        tokens: How many tokens of each these are of; drawn with them, for perplexity is a ratio of two sums.
        limit: In percent.
        seed: Of the resampling.
        draws: How many bootstrap resamples.

    Returns:
        A p-value, at least 1 / (draws + 1).

    Raises:
        InputError: Numbers that do not pair or are not finite.
    """
    rises_N, tokens_N = rises_of(dense_nlls, candidate_nlls, tokens)
    means_B = resampled_means(rises_N, seed, draws, tokens_N)
    return (int(np.count_nonzero(means_B > math.log1p(limit / 100))) + 1) / (draws + 1)


def of_two_looks(first: float, whole: float | None = None) -> float:
    """A p-value by some of the examples, and by all of them where those do not tell.

    What each look alone lets through adds up, so each has a part of the risk.

    Args:
        first: The p-value by some of the examples: which ones, and how many, is settled before.
        whole: By all of them; None as long as they are not looked at, and the p-value may fall yet.

    Source: Pocock 1977, Biometrika 64(2), with the parts of `FIRST_LOOK`, by Bonferroni.
    """
    early = min(first / FIRST_LOOK, 1.0)
    return early if whole is None else min(early, whole / (1 - FIRST_LOOK))


def fewest_examples(limit: float, confidence: float) -> int | None:
    """How many examples it takes to let through, by `risk_of_drop`, who loses none of them; None: no number does.

    Args:
        limit: In percentage points.
        confidence: Below 1.
    """
    if limit <= 0:
        return None
    if limit >= 100:
        return 1
    lost = math.log1p(-limit / 100)
    wanted = math.log(1 - confidence) / lost if lost < 0 else math.inf
    return math.ceil(wanted) if math.isfinite(wanted) else None
