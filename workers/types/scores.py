"""What scoring a candidate yields: one number per example and measure, and the dense model's beliefs.

Plain numpy, so that it travels between processes without torch. Units: nats, and scores where more is better.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ranksieve.workers.types.metrics import Kind, perplexity

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreRequest:
    """Score the candidate with these ranks on `split[start:stop]`.

    `refit`: file with left factors and biases of its own, where it was refit. `loss_only`: no answers are written.
    """

    ranks: tuple[int, ...]
    split: str
    start: int
    stop: int
    refit: Path | None = None
    loss_only: bool = False

    @property
    def examples(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True, kw_only=True, slots=True)
class RefitRequest:
    """Refit the candidate with these ranks on so many calibration `examples`; what is fitted goes to `file`.

    `dense_share`: of the dense flow in the target, see `factors.refit`. `answer_bias`: whether the right answers
    may have a say, see `workers.factors.answer_bias`.
    """

    ranks: tuple[int, ...]
    examples: int
    dense_share: float
    file: Path
    answer_bias: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class ReactionRequest:
    """How the candidate with these ranks reacts on `calibration[start:stop]`, see `workers.scoring.slopes`."""

    ranks: tuple[int, ...]
    start: int
    stop: int
    kl_weight: float
    window: int

    @property
    def examples(self) -> int:
        return self.stop - self.start


Request = ScoreRequest | RefitRequest | ReactionRequest


@dataclass(frozen=True, kw_only=True, slots=True)
class Reaction:
    """Slopes of each example's loss by the gates of components, summed over a window of them.

    `kept`, E×M: over each matrix's components from `start` to `rank`, which are there. `cut`, E×M: over those from
    `rank` to `stop`, which are not. A matrix that is gone was not watched: its window is empty. `quality` and
    `dense_quality`, E: what the candidate and the dense model score there, as of `Scores`; NaN for `generate`.
    """

    start: NDArray[np.int64]
    rank: NDArray[np.int64]
    stop: NDArray[np.int64]
    kept: Floats
    cut: Floats
    quality: Floats
    dense_quality: Floats


@dataclass(frozen=True, kw_only=True, slots=True)
class Scores:
    """Per-example measures, all of length E.

    `quality`: 1 for a right choice, 1/n where it is one of n equally likely ones; token F1 of a generated answer;
    minus the answer's negative log-likelihood for `lm`. NaN, like `exact`, where no answer was written. `nll_nats`: of
    the right answer. `answer_tokens`: what it is spread over. `kl_nats`: from the dense model's belief to the
    candidate's, zero for the dense model itself. `exact`: 0/1 exact match (for a choice the same as `quality`).
    `tokens` of all rows, each with its prompt, which took `seconds`.
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
        """Whether answers that `quality` wants were not written."""
        return bool(np.isnan(self.quality).any())


PER_EXAMPLE = tuple(item.name for item in fields(Scores) if item.name not in ("tokens", "seconds"))
"""The measures of `Scores`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """The candidate could not be scored, by its own fault."""

    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Beliefs:
    """The dense model's log-probabilities, the yardstick of KL.

    `logp_AK` at `token_AK`, both A×K. For `choice` A is examples and K choices (`token_AK` counts them); else A
    is answer positions in example order and K the most likely tokens, what is left being one more outcome, so
    that the KL is the one of the coarsened distributions, a lower bound. `offset_E`: first row of each example,
    with one entry past the end.
    """

    logp_AK: NDArray[np.float32]
    token_AK: NDArray[np.int32]
    offset_E: NDArray[np.int64]

    def part(self, start: int, stop: int) -> "Beliefs":
        """The beliefs of examples `start` to `stop`."""
        first, last = self.offset_E[start], self.offset_E[stop]
        return Beliefs(
            logp_AK=self.logp_AK[first:last],
            token_AK=self.token_AK[first:last],
            offset_E=self.offset_E[start : stop + 1] - first,
        )


def join_scores(parts: Sequence[Scores]) -> Scores:
    """Scores of consecutive example ranges as one."""
    arrays = {name: np.concatenate([getattr(part, name) for part in parts]) for name in PER_EXAMPLE}
    return Scores(
        **arrays, tokens=sum(part.tokens for part in parts), seconds=sum(part.seconds for part in parts)
    )


def join_reactions(parts: Sequence[Reaction]) -> Reaction:
    """Reactions of one candidate on consecutive example ranges as one."""
    per_example = ("kept", "cut", "quality", "dense_quality")
    arrays = {name: np.concatenate([getattr(part, name) for part in parts]) for name in per_example}
    return replace(parts[0], **arrays)


def join_beliefs(parts: Sequence[Beliefs]) -> Beliefs:
    """Beliefs of consecutive example ranges as one."""
    rows = np.cumsum([0, *(len(part.logp_AK) for part in parts)])
    offsets = [part.offset_E[:-1] + first for part, first in zip(parts, rows[:-1], strict=True)]
    return Beliefs(
        logp_AK=np.concatenate([part.logp_AK for part in parts]),
        token_AK=np.concatenate([part.token_AK for part in parts]),
        offset_E=np.concatenate([*offsets, rows[-1:]]),
    )


def metric_of(kind: Kind, scores: Scores) -> float:
    """The task metric over all examples: accuracy, mean token F1, or perplexity.

    Raises:
        ScoringError: The perplexity overflows.
    """
    if kind == "lm":
        return perplexity(float(scores.nll_nats.sum()), int(scores.answer_tokens.sum()))
    return float(scores.quality.mean())


def first(scores: Scores, examples: int) -> Scores:
    """The scores of the first examples; tokens and seconds in proportion are not known and stay zero."""
    arrays = {name: getattr(scores, name)[:examples] for name in PER_EXAMPLE}
    return Scores(**arrays, tokens=0, seconds=0.0)
