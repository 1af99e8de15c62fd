"""Honest numbers on examples that no search has seen: intervals, and a test over several sizes.

Shape letters: N examples, B bootstrap resamples.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from search.errors import InputError, ScoringError

RESAMPLES = 4000
RISK_DRAWS = 40_000
"""For p-values, of which those far from even tell."""
MOST_CONFIDENCE = 0.999
"""No p-value is below 1 / (`RISK_DRAWS` + 1), and a finalist's part of the risk may be a tenth."""
GRID = 0.01
"""Points to which drops are rounded up there, so that many records have no more different ones than that."""
FIRST_LOOK = 0.02
"""Of the risk of a candidate, that it is let through at by some of the examples, before all are looked at: what holds
at so little holds by far, and the others miss it by a hair at most."""
TWO_SIDED = 0.95
MOST_NATS = 700.0
"""Of a rise per token: the exponential of a little more is no number."""
WILSON_Z = 1.959963984540054
"""Standard normal quantile of a two-sided 95 % interval."""

_CHUNK_DRAWS = 4_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class DropInterval:
    """How much of the metric a candidate loses against the dense model, in points; bounds are a bootstrap's.

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
        """Whether the drop is at most `limit` points, with `confidence`."""
        return self.upper <= limit

    def of_as_many(self, times: float) -> "DropInterval":
        """What so many times as many examples like these would tell: all bounds are nearer by the root of that."""
        low, high, upper = (
            self.estimate + (bound - self.estimate) / math.sqrt(times)
            for bound in (self.low, self.high, self.upper)
        )
        return replace(self, low=low, high=high, upper=upper)

    def with_one_lost(self, examples: int) -> "DropInterval":
        """With the upper bound for one more than so many examples, which has lost everything, see `risk_of_drop`."""
        return replace(self, upper=self.upper + (100 - self.estimate) / (examples + 1))


def _finite(name: str, values: ArrayLike) -> NDArray[np.float64]:
    array_N = np.asarray(values, dtype=np.float64)
    if array_N.ndim != 1 or len(array_N) == 0:
        raise InputError(name, f"must be a vector of at least one score, got shape {array_N.shape}")
    if not np.isfinite(array_N).all():
        raise InputError(name, "must be finite; a failed scoring is no score")
    return array_N


def _resampled_means(
    values_N: NDArray[np.float64],
    seed: int,
    resamples: int,
    weights_N: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    """The mean of each resample; with weights, by the weights that are in it: a ratio of two sums."""
    rng = np.random.default_rng(seed)
    size, means = len(values_N), []
    chunk = max(1, _CHUNK_DRAWS // size)
    for start in range(0, resamples, chunk):
        draws_BN = rng.integers(size, size=(min(chunk, resamples - start), size))
        weights_B = size if weights_N is None else weights_N[draws_BN].sum(axis=1)
        means.append(values_N[draws_BN].sum(axis=1) / weights_B)
    return np.concatenate(means)


def _interval(estimate: float, means_B: NDArray[np.float64], confidence: float) -> DropInterval:
    tail = (1 - TWO_SIDED) / 2
    low, high, upper = np.quantile(means_B, [tail, 1 - tail, confidence])
    return DropInterval(
        estimate=estimate, low=float(low), high=float(high), upper=float(upper), confidence=confidence
    )


def _check_confidence(confidence: float) -> None:
    if not 0.5 <= confidence < 1:
        raise InputError("objective.confidence", f"must be in [0.5, 1), got {confidence}")


def _pair(first: ArrayLike, second: ArrayLike) -> NDArray[np.float64]:
    first_N, second_N = _finite("dense scores", first), _finite("candidate scores", second)
    if len(first_N) != len(second_N):
        raise InputError("candidate scores", f"need one per dense score, {len(first_N)}, got {len(second_N)}")
    return first_N - second_N


def _drops(dense_scores: ArrayLike, candidate_scores: ArrayLike) -> NDArray[np.float64]:
    drops_N = _pair(dense_scores, candidate_scores)
    for name, scores in (("dense scores", dense_scores), ("candidate scores", candidate_scores)):
        if np.min(scores) < 0 or np.max(scores) > 1:
            raise InputError(name, "must lie in [0, 1]")
    return drops_N


def paired_drop(
    dense_scores: ArrayLike,
    candidate_scores: ArrayLike,
    *,
    confidence: float,
    seed: int,
    resamples: int = RESAMPLES,
) -> DropInterval:
    """The drop in mean score, with a paired bootstrap over examples.

    Args:
        dense_scores: The dense model's score on each of N examples, in [0, 1].
        candidate_scores: The candidate's, on the same examples in the same order.
        confidence: Of the one-sided upper bound, in [0.5, 1).
        seed: Seed of the resampling.
        resamples: How many bootstrap resamples.

    Returns:
        The drop in percentage points.

    Raises:
        InputError: Scores that do not pair, are not finite or lie outside [0, 1].

    Source: Efron and Tibshirani 1993, chapter 13 (percentile interval).
    """
    _check_confidence(confidence)
    drops_N = 100 * _drops(dense_scores, candidate_scores)
    return _interval(float(drops_N.mean()), _resampled_means(drops_N, seed, resamples), confidence)


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
    drops_N = np.ceil(100 / GRID * _drops(dense_scores, candidate_scores) - 1e-6) * GRID
    drops_U, counts_U = np.unique(drops_N, return_counts=True)
    rng, above = np.random.default_rng(seed), 0
    values_U, shape_U = np.append(drops_U, 100.0), np.append(counts_U, 1)
    chunk = max(1, _CHUNK_DRAWS // len(values_U))
    for start in range(0, draws, chunk):
        weights_BU = rng.standard_gamma(shape_U, size=(min(chunk, draws - start), len(shape_U)))
        above += int(np.count_nonzero(weights_BU @ (values_U - limit) > 0))
    return (above + 1) / (draws + 1)


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
    return 1 if limit >= 100 else math.ceil(math.log(1 - confidence) / math.log1p(-limit / 100))


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
    rises_N, tokens_N = _rises(dense_nlls, candidate_nlls, tokens)
    means_B = _resampled_means(rises_N, seed, draws, tokens_N)
    return (int(np.count_nonzero(means_B > math.log1p(limit / 100))) + 1) / (draws + 1)


def _rises(
    dense_nlls: ArrayLike, candidate_nlls: ArrayLike, tokens: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """What each example's negative log-likelihood rises by, in nats, and of how many tokens."""
    rises_N, tokens_N = -_pair(dense_nlls, candidate_nlls), _finite("tokens", tokens)
    if len(tokens_N) != len(rises_N) or tokens_N.min() <= 0:
        raise InputError("tokens", f"need a number above 0 per example, {len(rises_N)}, got {tokens_N.shape}")
    return rises_N, tokens_N


def perplexity_rise(
    dense_nlls: ArrayLike,
    candidate_nlls: ArrayLike,
    tokens: ArrayLike,
    *,
    confidence: float,
    seed: int,
    resamples: int = RESAMPLES,
) -> DropInterval:
    """The rise in perplexity, in percent, with a paired bootstrap over examples.

    Args:
        dense_nlls: The dense model's negative log-likelihood of each of N examples, in nats.
        candidate_nlls: The candidate's, on the same examples in the same order.
        tokens: As of `risk_of_rise`.
        confidence: Of the one-sided upper bound, in [0.5, 1).
        seed: Seed of the resampling.
        resamples: How many bootstrap resamples.

    Returns:
        The rise of exp(NLL per token over all examples), as points of drop.

    Raises:
        InputError: Numbers that do not pair or are not finite.
        ScoringError: The candidate is so bad that the rise is no number.
    """
    _check_confidence(confidence)
    rises_N, tokens_N = _rises(dense_nlls, candidate_nlls, tokens)
    rise, means_B = rises_N.sum() / tokens_N.sum(), _resampled_means(rises_N, seed, resamples, tokens_N)
    if max(rise, means_B.max()) > MOST_NATS:
        raise ScoringError(f"perplexity overflows: {rise:.1f} nats per token more")
    return _interval(100 * math.expm1(rise), 100 * np.expm1(means_B), confidence)


def mean_interval(scores: ArrayLike, *, seed: int = 0, resamples: int = RESAMPLES) -> tuple[float, float]:
    """A two-sided 95 % interval for a mean score.

    Args:
        scores: One score per example.
        seed: Seed of the resampling, where there is one.
        resamples: How many bootstrap resamples.

    Returns:
        Low and high: Wilson's interval where every score is 0 or 1, else a percentile bootstrap.

    Raises:
        InputError: No scores, or scores that are not finite.

    Source: Wilson 1927.
    """
    scores_N = _finite("scores", scores)
    if not np.isin(scores_N, (0.0, 1.0)).all():
        tail = (1 - TWO_SIDED) / 2
        low, high = np.quantile(_resampled_means(scores_N, seed, resamples), [tail, 1 - tail])
        return float(low), float(high)
    size, mean, z2 = len(scores_N), float(scores_N.mean()), WILSON_Z**2
    center = (mean + z2 / (2 * size)) / (1 + z2 / size)
    half = WILSON_Z / (1 + z2 / size) * math.sqrt(mean * (1 - mean) / size + z2 / (4 * size**2))
    return max(0.0, center - half), min(1.0, center + half)


def fallback(
    risks: Sequence[float], risk: float, least_risk: Callable[[int, float], float | None]
) -> tuple[int, ...]:
    """Tests candidates from the largest down, so that the chance of any wrong acceptance is that of a single test.

    Each candidate may have a part of the risk to itself; whoever holds passes on all that it was tested at to the next.
    With all of it on the first candidate the test ends at the first that fails (fixed sequence testing). With parts on
    later ones it goes on there, at less risk. Candidates that are left with none are not tested.

    Only the last that holds is wanted, and a test costs: so it begins where the last part of the risk is. What the
    candidates before might pass on lies between nothing and all that is theirs; where the end is the same with either,
    they are not tested at all.

    Args:
        risks: Of each candidate, the part that is its own; they add up to one at most.
        risk: Of any wrong acceptance, over all candidates.
        least_risk: The least risk at which the candidate at an index holds, a p-value; None where it cannot be told,
            and it is passed over. Told, too, at which risk it is tested: any p-value that is not above that will do.
            Asked of the same candidate more than once.

    Returns:
        Indices of candidates that hold, rising, as far as they had to be tested. The last one is that of a test of all.

    Source: Wiens 2003, The fallback procedure, Pharmaceutical Statistics 2(3); for risks of models Learn then Test,
        arXiv 2110.01052, section 4.
    """

    for start in reversed([index for index, own in enumerate(risks) if own > 0]):
        passed_on = risk * sum(risks[:start])
        least = fallback_from(start, 0.0, risks, risk, least_risk)
        if not passed_on:  # nobody is before
            return least
        most = fallback_from(start, passed_on, risks, risk, least_risk)
        if least and least[-1] == most[-1]:
            return least  # what holds whatever those before pass on
    return ()


def fallback_from(
    start: int,
    passed_on: float,
    risks: Sequence[float],
    risk: float,
    least_risk: Callable[[int, float], float | None],
) -> tuple[int, ...]:
    """The same test of a candidate and all behind it; from 0 on, with nothing passed on, of all.

    Args:
        start: Index of the first to test.
        passed_on: The risk that those before have passed on.
        risks: As of `fallback`.
        risk: As of `fallback`.
        least_risk: As of `fallback`.

    Returns:
        Indices of all of them that hold, rising.
    """
    held, at_hand = [], passed_on
    for index in range(start, len(risks)):
        at_hand = min(at_hand + risks[index] * risk, risk)
        if at_hand <= 0:
            continue
        needed = least_risk(index, at_hand)
        if needed is None:
            continue
        if needed <= at_hand:
            held.append(index)
        else:
            at_hand = 0.0
    return tuple(held)
