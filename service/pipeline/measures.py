"""What scores are worth: the metric, the loss, and what is lost against the dense model, in numbers."""

import numpy as np

from ranksieve.search.statistics.intervals import (
    RESAMPLES,
    DropInterval,
    mean_interval,
    paired_drop,
    perplexity_rise,
)
from ranksieve.search.statistics.pvalues import risk_of_drop, risk_of_rise
from ranksieve.workers.types.metrics import METRIC_NAMES
from ranksieve.workers.types.plan import EncodedTask
from ranksieve.workers.types.scores import Floats, Reaction, Scores, first, metric_of

SEARCH_RESAMPLES = 1000
"""Of a bootstrap, where one is wanted of every candidate."""


class Measures:
    """Numbers out of the scores of one task; runs nothing.

    Args:
        task: The encoded task.
        kl_weight: How much of the loss is KL to the dense model; the rest is the rise of the right answers'
            negative log-likelihood.
    """

    def __init__(self, task: EncodedTask, kl_weight: float) -> None:
        self._task, self._kl_weight = task, kl_weight
        self.dense: dict[str, Scores] = {}
        """What the dense model scored on each split, once it has."""

    @property
    def metric_name(self) -> str:
        """Of the task."""
        return METRIC_NAMES[self._task.kind]

    def metric(self, scores: Scores) -> float:
        """The task metric of some scores."""
        return metric_of(self._task.kind, scores)

    def loss(self, scores: Scores, split: str) -> float:
        """What a search minimises: the mean of `losses`."""
        return float(self.losses(scores, split).mean())

    def losses(self, scores: Scores, split: str) -> Floats:
        """The loss on each example, in nats per answer token: see `kl_weight`.

        The KL has little noise but does not know right from wrong: it weighs a shift towards the wrong answers
        like one towards the right ones. The likelihood of the right answers tells them apart.
        """
        dense = self._dense_like(scores, split)
        rise_E = (scores.nll_nats - dense.nll_nats) / dense.answer_tokens
        losses_E: Floats = self._kl_weight * scores.kl_nats + (1 - self._kl_weight) * rise_E
        return losses_E

    def interval(self, scores: Scores) -> list[float] | None:
        """A 95 % interval of the metric; None for `lm`, where none is told."""
        if self._task.kind == "lm":
            return None
        return list(mean_interval(scores.quality))

    def foreseen(self, scores: Scores, confidence: float) -> DropInterval:
        """How many points a candidate loses on the first examples of the search split, as the confirm split would tell.

        What is looked for is a model that will be let through there. The few examples of the search split often bound
        no model tightly enough, however good.
        """
        drop = self.drop(scores, "search", confidence, seed=0, resamples=SEARCH_RESAMPLES)
        return self._as_confirmed(drop, len(scores.quality))

    def drop(
        self, scores: Scores, split: str, confidence: float, seed: int, resamples: int = RESAMPLES
    ) -> DropInterval:
        """How many points a candidate loses against dense on the first examples of a split, with intervals."""
        dense = self._dense_like(scores, split)
        return self._drop(dense.quality, scores.quality, dense.answer_tokens, confidence, seed, resamples)

    def risk(self, scores: Scores, split: str, points: float, seed: int) -> float:
        """The least risk at which a candidate can be said to lose at most so many points, from these examples."""
        dense = self._dense_like(scores, split)
        if self._task.kind == "lm":
            return risk_of_rise(-dense.quality, -scores.quality, dense.answer_tokens, points, seed=seed)
        return risk_of_drop(dense.quality, scores.quality, points, seed=seed)

    def drop_of(self, reaction: Reaction, examples: range, confidence: float) -> DropInterval:
        """How many points a genome loses on the calibration examples that it has reacted on; not for `generate`.

        Bounds are as the confirm split would give them, see `foreseen`.
        """
        chosen = self._task.splits["calibration"][examples.start : examples.stop]
        tokens_E = np.array([example.answer_tokens for example in chosen], dtype=np.float64)
        qualities = reaction.dense_quality, reaction.quality
        drop = self._drop(*qualities, tokens_E, confidence, seed=0, resamples=SEARCH_RESAMPLES)
        return self._as_confirmed(drop, len(chosen))

    def _drop(
        self,
        dense_E: Floats,
        candidate_E: Floats,
        tokens_E: Floats,
        confidence: float,
        seed: int,
        resamples: int,
    ) -> DropInterval:
        """By the `quality` of both on each example, and how many tokens its answer has."""
        if self._task.kind == "lm":
            nlls = -dense_E, -candidate_E
            return perplexity_rise(*nlls, tokens_E, confidence=confidence, seed=seed, resamples=resamples)
        return paired_drop(dense_E, candidate_E, confidence=confidence, seed=seed, resamples=resamples)

    def _as_confirmed(self, drop: DropInterval, examples: int) -> DropInterval:
        """The bounds of as many examples as will confirm, one of which counts as lost, see `risk_of_drop`."""
        confirm = len(self._task.splits["confirm"])
        foreseen = drop.of_as_many(confirm / examples)
        return foreseen if self._task.kind == "lm" else foreseen.with_one_lost(confirm)

    def _dense_like(self, scores: Scores, split: str) -> Scores:
        """The dense model's scores on the same examples, the first of the split."""
        return first(self.dense[split], len(scores.quality))
