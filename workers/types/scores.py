"""Requests to score candidates, and the numbers that answer them.

One number per example and measure. Plain numpy, so that it travels between processes without torch. Units: nats, and
scores where more is better.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from ranksieve.workers.types.metrics import Kind, perplexity

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreRequest:
    """Request to score the candidate with these ranks on `split[start:stop]`.

    `loss_only`: generate no answers.
    """

    ranks: tuple[int, ...]
    split: str
    start: int
    stop: int
    loss_only: bool = False

    @property
    def examples(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True, kw_only=True, slots=True)
class Scores:
    """Per-example measures, all of length E.

    `quality`: for a choice 1 if right, 1/n if it is one of n equally likely ones; F1 of a generated answer, of its
    words or its fields; minus the answer's negative log-likelihood for `lm`. NaN, like `exact`, where no answer was
    generated. `nll_nats`: negative log-likelihood of the right answer. `answer_tokens`: number of its tokens.
    `kl_nats`: KL divergence from the dense model's beliefs to the candidate's, zero for the dense model itself.
    `exact`: 0/1 exact match (equal to `quality` for a choice). `tokens`: number of tokens of all rows, prompts
    included. `seconds`: time that these took.
    """

    quality: Floats
    exact: Floats
    nll_nats: Floats
    kl_nats: Floats
    answer_tokens: Floats
    tokens: int
    seconds: float

    @property
    def unwritten(self) -> bool:
        """Whether answers that `quality` needs were not generated."""
        return bool(np.isnan(self.quality).any())


PER_EXAMPLE = tuple(item.name for item in fields(Scores) if item.name not in ("tokens", "seconds"))
"""Names of the per-example measures of `Scores`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """Failure to score a candidate, by the candidate's own fault."""

    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Beliefs:
    """Log-probabilities of the dense model, the reference of KL.

    `logp_AK` at `token_AK`, both A×K. For `choice`, A counts examples and K choices (`token_AK` numbers them). Else A
    counts answer positions in example order and K the most likely tokens. The remaining probability is one more
    outcome, so the KL is that of the coarsened distributions, a lower bound. `offset_E`: first row of each example,
    with one entry past the end.
    """

    logp_AK: NDArray[np.float32]
    token_AK: NDArray[np.int32]
    offset_E: NDArray[np.int64]

    def part(self, start: int, stop: int) -> "Beliefs":
        """Return the beliefs of examples `start` to `stop`."""
        first, last = self.offset_E[start], self.offset_E[stop]
        return Beliefs(
            logp_AK=self.logp_AK[first:last],
            token_AK=self.token_AK[first:last],
            offset_E=self.offset_E[start : stop + 1] - first,
        )


def join_scores(parts: Sequence[Scores]) -> Scores:
    """Join scores of consecutive example ranges."""
    arrays = {name: np.concatenate([getattr(part, name) for part in parts]) for name in PER_EXAMPLE}
    return Scores(
        **arrays, tokens=sum(part.tokens for part in parts), seconds=sum(part.seconds for part in parts)
    )


def join_beliefs(parts: Sequence[Beliefs]) -> Beliefs:
    """Join beliefs of consecutive example ranges."""
    rows = np.cumsum([0, *(len(part.logp_AK) for part in parts)])
    offsets = [part.offset_E[:-1] + first for part, first in zip(parts, rows[:-1], strict=True)]
    return Beliefs(
        logp_AK=np.concatenate([part.logp_AK for part in parts]),
        token_AK=np.concatenate([part.token_AK for part in parts]),
        offset_E=np.concatenate([*offsets, rows[-1:]]),
    )


def metric_of(kind: Kind, scores: Scores) -> float:
    """Return the metric over all examples: accuracy, mean F1 or perplexity.

    Raises:
        ScoringError: The perplexity overflows.
    """
    if kind == "lm":
        return perplexity(float(scores.nll_nats.sum()), int(scores.answer_tokens.sum()))
    return float(scores.quality.mean())


def first(scores: Scores, examples: int) -> Scores:
    """Return the scores of the first examples.

    Their tokens and seconds are unknown and stay zero.
    """
    arrays = {name: getattr(scores, name)[:examples] for name in PER_EXAMPLE}
    return Scores(**arrays, tokens=0, seconds=0.0)
