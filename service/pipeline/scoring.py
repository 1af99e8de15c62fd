"""Scorer of candidates and of the dense model on whole splits.

Long splits are cut into chunks, so that every actor has work. The cut is fixed, so results do not depend on the
number of actors.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Protocol, TypeVar

import numpy as np

from ranksieve.search.errors import ScoringError
from ranksieve.search.space.matrix import DENSE
from ranksieve.search.space.space import Genome, SearchSpace
from ranksieve.service.job.events import EventType
from ranksieve.service.pipeline.measures import Measures
from ranksieve.service.run.joblog import JobLog
from ranksieve.workers.scoring.offsets import fitted_offsets, right_with
from ranksieve.workers.types.plan import EncodedTask
from ranksieve.workers.types.scores import (
    Beliefs,
    Failure,
    Floats,
    ScoreRequest,
    Scores,
    join_beliefs,
    join_scores,
)

CHUNK = 256

Report = Callable[[int, int], None]
Key = TypeVar("Key")


class Runner(Protocol):
    """Runner of requests: `workers.cluster.dispatcher.Dispatcher`, or a fake."""

    def run(
        self,
        method: str,
        requests: Sequence[ScoreRequest],
        on_done: Callable[[int], None] = ...,
    ) -> list[object]: ...

    def stream(
        self, method: str, take: Callable[[int], Iterable[tuple[Key, ScoreRequest]]]
    ) -> Iterator[tuple[Key, object]]: ...

    def set_beliefs(self, beliefs: object) -> None: ...


class TaskScorer(Measures):
    """Scores the genomes of one job on one task.

    Args:
        runner: Runs the requests.
        space: Turns genomes into ranks.
        task: See `Measures`.
        kl_weight: See `Measures`.
    """

    def __init__(self, runner: Runner, space: SearchSpace, task: EncodedTask, kl_weight: float) -> None:
        super().__init__(task, kl_weight)
        self.runner, self.space = runner, space
        self._beliefs: dict[str, Beliefs] = {}
        self._offset_C: Floats | None = None

    def score_dense(self, split: str, report: Report = lambda done, total: None) -> Scores:
        """Score the dense model on a split, as the reference for candidates.

        Raises:
            ScoringError: The dense model cannot be scored.
        """
        ranks = (DENSE,) * len(self.space.matrices)
        requests = self._requests(ranks, split)
        parts = self._run("score_dense", requests, report)
        good = [part for part in parts if isinstance(part, tuple)]
        if len(good) != len(parts):
            reasons = [part.reason for part in parts if isinstance(part, Failure)]
            raise ScoringError(f"the dense model cannot be scored on {split}: {reasons[0]}")
        self.plain[split] = join_scores([scores for scores, _ in good])
        self._beliefs[split] = join_beliefs([beliefs for _, beliefs in good])
        self.dense[split] = self._helped(split)
        self.runner.set_beliefs(dict(self._beliefs))
        return self.plain[split]

    def _helped(self, split: str) -> Scores:
        """Return the dense model's scores, with offsets if those help on the search split."""
        scores, logp_EC = self.plain[split], self._beliefs[split].logp_AK
        if self.task.kind != "choice":
            return scores
        labels_E = np.array([example.label for example in self.task.splits[split]])
        if split == "search":
            offset_C = fitted_offsets(logp_EC, labels_E)
            helps = right_with(offset_C, logp_EC, labels_E).mean() > scores.quality.mean()
            self._offset_C = offset_C if helps else None
        if self._offset_C is None:
            return scores
        right_E = right_with(self._offset_C, logp_EC, labels_E)
        return replace(scores, quality=right_E, exact=right_E)

    def score_candidates(
        self,
        genomes: Sequence[Genome],
        split: str,
        report: Report = lambda done, total: None,
    ) -> list[Scores | Failure]:
        """Score genomes on a whole split."""
        per_genome = [self._requests(self.space.ranks(genome), split) for genome in genomes]
        requests = [request for part in per_genome for request in part]
        results = iter(self._run("score", requests, report))
        return [_joined([next(results) for _ in part]) for part in per_genome]

    def _run(self, method: str, requests: Sequence[ScoreRequest], report: Report) -> list[object]:
        report(0, len(requests))
        return self.runner.run(method, requests, lambda done: report(done, len(requests)))

    def _requests(self, ranks: tuple[int, ...], split: str) -> list[ScoreRequest]:
        total = len(self.task.splits[split])
        return [
            ScoreRequest(ranks=ranks, split=split, start=start, stop=min(start + CHUNK, total))
            for start in range(0, total, CHUNK)
        ]


def announce_dense(scorer: TaskScorer, splits: Iterable[str], log: JobLog) -> None:
    """Score the dense model on splits and record its metric on each."""
    for split in splits:
        scores = scorer.score_dense(split, log.progress("dense"))
        log.event(
            EventType.DENSE_SCORED,
            split=split,
            metric=scorer.metric(scores),
            helped=scorer.metric(scorer.dense[split]),
            metric_name=scorer.metric_name,
        )


def _joined(parts: Sequence[object]) -> Scores | Failure:
    for part in parts:
        if isinstance(part, Failure):
            return part
    return join_scores([part for part in parts if isinstance(part, Scores)])
