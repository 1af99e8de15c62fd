"""Paired scores of two models on the same examples, and resampled means.

Shape letters: N examples, B bootstrap resamples.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ranksieve.search.errors import InputError

CHUNK_DRAWS = 4_000_000
"""Count of numbers drawn at once."""


def finite(name: str, values: ArrayLike) -> NDArray[np.float64]:
    """Return the scores as a vector.

    Raises:
        InputError: There are no scores, or one is not finite.
    """
    array_N = np.asarray(values, dtype=np.float64)
    if array_N.ndim != 1 or len(array_N) == 0:
        raise InputError(name, f"must be a vector of at least one score, got shape {array_N.shape}")
    if not np.isfinite(array_N).all():
        raise InputError(name, "must be finite; leave out failed scorings")
    return array_N


def _pair(first: ArrayLike, second: ArrayLike) -> NDArray[np.float64]:
    first_N, second_N = finite("dense scores", first), finite("candidate scores", second)
    if len(first_N) != len(second_N):
        raise InputError("candidate scores", f"need one per dense score, {len(first_N)}, got {len(second_N)}")
    return first_N - second_N


def drops_of(dense_scores: ArrayLike, candidate_scores: ArrayLike) -> NDArray[np.float64]:
    """Return what each example loses of a score in [0, 1].

    Gains of the candidate are negative.

    Raises:
        InputError: Scores do not pair, are not finite or lie outside [0, 1].
    """
    drops_N = _pair(dense_scores, candidate_scores)
    for name, scores in (("dense scores", dense_scores), ("candidate scores", candidate_scores)):
        if np.min(scores) < 0 or np.max(scores) > 1:
            raise InputError(name, "must lie in [0, 1]")
    return drops_N


def rises_of(
    dense_nlls: ArrayLike, candidate_nlls: ArrayLike, tokens: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the rise of each example's negative log-likelihood, and its tokens.

    Rises are in nats.

    Raises:
        InputError: Numbers do not pair or are not finite, or an example has no token.
    """
    rises_N, tokens_N = -_pair(dense_nlls, candidate_nlls), finite("tokens", tokens)
    if len(tokens_N) != len(rises_N) or tokens_N.min() <= 0:
        raise InputError("tokens", f"need a number above 0 per example, {len(rises_N)}, got {tokens_N.shape}")
    return rises_N, tokens_N


def resampled_means(
    values_N: NDArray[np.float64],
    seed: int,
    resamples: int,
    weights_N: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    """Return the mean of each of B resamples.

    With weights, it is the ratio of the sums of values and of weights.
    """
    rng = np.random.default_rng(seed)
    size, means = len(values_N), []
    chunk = max(1, CHUNK_DRAWS // size)
    for start in range(0, resamples, chunk):
        draws_BN = rng.integers(size, size=(min(chunk, resamples - start), size))
        weights_B = size if weights_N is None else weights_N[draws_BN].sum(axis=1)
        means.append(values_N[draws_BN].sum(axis=1) / weights_B)
    return np.concatenate(means)
