"""Refit of finalists to the inputs of their own matrices, kept if it helps."""

from collections.abc import Sequence
from dataclasses import replace

from ranksieve.search.space.space import Genome
from ranksieve.service.job.events import EventType
from ranksieve.service.pipeline.scoring import Candidate, Report, TaskScorer
from ranksieve.service.policy import policy_of
from ranksieve.service.run.clock import Clock
from ranksieve.service.run.joblog import JobLog
from ranksieve.service.spec import JobSpec
from ranksieve.workers.types.scores import Failure

SPLIT = "search"
"""Split that decides whether a refit is better.

It has chosen the finalists already, so the confirm split stays fresh.
"""


class Finalists:
    """Finalists in their order, each plain or refit, whichever loses less.

    The search split decides. The dense model is not refit. A refit takes as long as a scoring of the confirm split,
    and most finalists are never looked at. So a finalist is refit on access, together with as many later ones as
    there are other actors.

    Args:
        spec: The job.
        scorer: Scorer of the job.
        genomes: Genomes of the finalists.
        log: Log of the job.
        clock: Counts the time as phase "refit".
        by_block: Whether the model can be run block by block; without that, no finalist is refit.
    """

    def __init__(
        self,
        spec: JobSpec,
        scorer: TaskScorer,
        genomes: Sequence[Genome],
        log: JobLog,
        clock: Clock,
        *,
        by_block: bool = True,
    ) -> None:
        self._spec = spec
        self._dense_share = policy_of(spec).refit if by_block else None
        self._scorer = scorer
        self._plain = [Candidate(genome=genome) for genome in genomes]
        self._log = log
        self._clock = clock
        self._chosen: dict[int, Candidate] = {}

    def __len__(self) -> int:
        return len(self._plain)

    def __getitem__(self, index: int) -> Candidate:
        dense_share = self._dense_share
        if dense_share is None or self._is_dense(index):
            return self._plain[index]
        if index not in self._chosen:
            after = [i for i in range(index, len(self)) if i not in self._chosen and not self._is_dense(i)]
            with self._clock.phase("refit"):
                self._refit(after[: self._spec.resources.most_actors], dense_share)
        return self._chosen[index]

    def end(self) -> None:
        """Report that no more finalists will be refit, if not all are."""
        if 0 < len(self._chosen) < self._most:
            self._log.progress("refit")(len(self._chosen), len(self._chosen))

    @property
    def _most(self) -> int:
        """Number of finalists that could be refit."""
        return sum(not self._is_dense(i) for i in range(len(self)))

    def _is_dense(self, index: int) -> bool:
        return self._scorer.space.is_dense(self._plain[index].genome)

    def _refit(self, indices: Sequence[int], dense_share: float) -> None:
        folder = self._log.directory / "refit"
        folder.mkdir(parents=True, exist_ok=True)
        wanted = [replace(self._plain[i], refit=folder / f"{i:03d}.safetensors") for i in indices]
        failures = self._scorer.refit(wanted, dense_share, self._report())
        pairs = [
            (self._plain[i], one)
            for i, one, failure in zip(indices, wanted, failures, strict=True)
            if failure is None
        ]
        scored = iter(self._scored([candidate for pair in pairs for candidate in pair]))
        for index, failure in zip(indices, failures, strict=True):
            if failure is None:
                self._chosen[index] = self._better(next(scored), next(scored))
            else:
                self._log.event(EventType.CANDIDATE_FAILED, reason=failure.reason, generation=None)
                self._chosen[index] = self._plain[index]

    def _report(self) -> Report:
        """Return a progress callback over all batches, so that the phase ends once."""
        report, before = self._log.progress("refit"), len(self._chosen)
        return lambda done, _: report(before + done, self._most)

    def _scored(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """Return the candidates with scores on the search split, or without on failure."""
        return [
            candidate if isinstance(scores, Failure) else replace(candidate, search=scores)
            for candidate, scores in zip(
                candidates, self._scorer.score_candidates(candidates, SPLIT), strict=True
            )
        ]

    def _better(self, before: Candidate, after: Candidate) -> Candidate:
        loss_before, loss_after = (
            None if candidate.search is None else self._scorer.loss(candidate.search, SPLIT)
            for candidate in (before, after)
        )
        kept = loss_after is not None and (loss_before is None or loss_after < loss_before)
        self._log.event(
            EventType.FINALIST_REFIT,
            kept_share=self._scorer.space.kept_share(before.genome),
            loss_before=loss_before,
            loss_after=loss_after,
            kept=kept,
        )
        return after if kept else before
