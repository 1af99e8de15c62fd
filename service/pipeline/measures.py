"""Measures of scores: the metric, the loss, and the drop against the dense model."""

from ranksieve.search.statistics.intervals import (
    RESAMPLES,
    DropInterval,
    mean_interval,
    paired_drop,
    perplexity_rise,
)
from ranksieve.search.statistics.pvalues import risk_of_drop, risk_of_rise
from ranksieve.workers.types.metrics import drop_points
from ranksieve.workers.types.plan import EncodedTask
from ranksieve.workers.types.scores import Floats, Scores, first, metric_of

SEARCH_RESAMPLES = 1000
"""Resamples of a bootstrap that every candidate gets."""


class Measures:
    """Numbers from the scores of one task; runs nothing.

    Args:
        task: The encoded task.
        kl_weight: Share of the KL to the dense model in the loss. The rest is the rise of the right answers'
            negative log-likelihood.
    """

    def __init__(self, task: EncodedTask, kl_weight: float) -> None:
        self.task, self._kl_weight = task, kl_weight
        self.plain: dict[str, Scores] = {}
        """Scores of the dense model, by split."""
        self.dense: dict[str, Scores] = {}
        """The same with one number added to each answer where that helps: the reference of drops, by split."""

    @property
    def metric_name(self) -> str:
        """Name of the task metric."""
        return self.task.metric_name

    def metric(self, scores: Scores) -> float:
        """Return the task metric of scores."""
        return metric_of(self.task.kind, scores)

    def loss(self, scores: Scores, split: str) -> float:
        """Return the loss that a search minimises: the mean of `losses`."""
        return float(self.losses(scores, split).mean())

    def losses(self, scores: Scores, split: str) -> Floats:
        """Return the loss on each example, in nats per answer token, see `kl_weight`.

        The KL has little noise but ignores which answers are right: it weighs a shift towards the wrong answers
        like one towards the right ones. The likelihood of the right answers distinguishes them.
        """
        dense = self._dense_like(scores, split)
        rise_E = (scores.nll_nats - dense.nll_nats) / dense.answer_tokens
        losses_E: Floats = self._kl_weight * scores.kl_nats + (1 - self._kl_weight) * rise_E
        return losses_E

    def interval(self, scores: Scores) -> list[float] | None:
        """Return a 95 % interval of the metric; None for `lm`."""
        if self.task.kind == "lm":
            return None
        return list(mean_interval(scores.quality))

    def foreseen(self, scores: Scores, confidence: float) -> DropInterval:
        """Return the drop of a candidate with bounds as the confirm split would give them.

        It is measured on the first examples of the search split. The aim is a model that passes the confirm split.
        The few examples of the search split often bound no model tightly enough, however good. One example of the
        confirm split counts as lost, see `risk_of_drop`.
        """
        drop = self.drop(scores, "search", confidence, seed=0, resamples=SEARCH_RESAMPLES)
        confirm = len(self.task.splits["confirm"])
        foreseen = drop.with_examples(confirm / len(scores.quality))
        return foreseen if self.task.kind == "lm" else foreseen.with_one_lost(confirm)

    def drop(
        self, scores: Scores, split: str, confidence: float, seed: int, resamples: int = RESAMPLES
    ) -> DropInterval:
        """Return the drop of a candidate on the first examples of a split, in points."""
        dense = self._dense_like(scores, split)
        if self.task.kind == "lm":
            nlls = -dense.quality, -scores.quality
            tokens_E = dense.answer_tokens
            return perplexity_rise(*nlls, tokens_E, confidence=confidence, seed=seed, resamples=resamples)
        qualities = dense.quality, scores.quality
        return paired_drop(*qualities, confidence=confidence, seed=seed, resamples=resamples)

    def drop_points(self, scores: Scores, split: str) -> float:
        """Return the drop of the metric on the first examples of a split, in points."""
        return drop_points(self.task.kind, self.metric(self._dense_like(scores, split)), self.metric(scores))

    def risk(self, scores: Scores, split: str, points: float, seed: int) -> float:
        """Return the least risk at which a candidate loses at most `points`."""
        dense = self._dense_like(scores, split)
        if self.task.kind == "lm":
            return risk_of_rise(-dense.quality, -scores.quality, dense.answer_tokens, points, seed=seed)
        return risk_of_drop(dense.quality, scores.quality, points, seed=seed)

    def _dense_like(self, scores: Scores, split: str) -> Scores:
        """Return the dense model's scores on the same first examples of the split."""
        return first(self.dense[split], len(scores.quality))
