"""Chooses among the finalists on examples the search has not seen, then looks at the test split once."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from search.confirmation import DropInterval, fixed_sequence
from search.errors import ScoringError
from search.space import Genome, SearchSpace
from service.events import EventType
from service.joblog import JobLog
from service.scoring import TaskScorer
from service.spec import JobSpec, MaxDrop
from workers.scores import Failure, Scores

DEFAULT_CONFIDENCE = 0.8


@dataclass(frozen=True, kw_only=True, slots=True)
class Winner:
    """The finalist that is exported; `held` tells whether the objective's promise held on fresh examples."""

    genome: Genome
    confirm: Scores
    confirm_drop: DropInterval
    held: bool
    confidence: float
    seed: int
    test: Scores | None = None
    test_drop: DropInterval | None = None

    def with_test(self, scorer: TaskScorer, log: JobLog) -> "Winner":
        """Scores it on the test split, the only time that split is used.

        Raises:
            ScoringError: It cannot be scored there.
        """
        (scores,) = scorer.score_genomes([self.genome], "test", _progress(log, "test"))
        if isinstance(scores, Failure):
            raise ScoringError(f"the winner cannot be scored on the test split: {scores.reason}")
        drop = scorer.drop(scores, "test", self.confidence, self.seed)
        return replace(self, test=scores, test_drop=drop)


def confirm(
    spec: JobSpec, space: SearchSpace, scorer: TaskScorer, finalists: Sequence[Genome], log: JobLog
) -> Winner:
    """Scores the finalists on the confirm split and picks the winner.

    For `max_drop` they are tested in a fixed order, largest first, stopping at the first that may lose too much:
    the smallest one that passed wins, and the chance that it breaks the promise is that of a single test. For
    `target_params` the lowest KL wins.

    Raises:
        ScoringError: No finalist can be scored.
    """
    confidence = spec.objective.confidence if isinstance(spec.objective, MaxDrop) else DEFAULT_CONFIDENCE
    results = scorer.score_genomes(finalists, "confirm", _progress(log, "confirm"))
    scored = [(g, s) for g, s in zip(finalists, results, strict=True) if isinstance(s, Scores)]
    if not scored:
        raise ScoringError("no finalist can be scored on the confirm split")
    drops = [scorer.drop(scores, "confirm", confidence, spec.search.seed) for _, scores in scored]
    index, held = _choose(spec, [scores for _, scores in scored], drops)
    for (genome, _), drop in zip(scored, drops, strict=True):
        log.event(
            EventType.FINALIST_CONFIRMED,
            kept_share=space.kept_share(genome),
            drop_points=drop.estimate,
            drop_low=drop.low,
            drop_high=drop.high,
            passed=not isinstance(spec.objective, MaxDrop) or drop.within(spec.objective.points),
        )
    return Winner(
        genome=scored[index][0],
        confirm=scored[index][1],
        confirm_drop=drops[index],
        held=held,
        confidence=confidence,
        seed=spec.search.seed,
    )


def _choose(spec: JobSpec, scores: Sequence[Scores], drops: Sequence[DropInterval]) -> tuple[int, bool]:
    if isinstance(spec.objective, MaxDrop):
        passed = fixed_sequence(drops, spec.objective.points)
        return (0, False) if passed is None else (passed, True)
    return min(range(len(scores)), key=lambda index: float(scores[index].kl_nats.mean())), True


def _progress(log: JobLog, phase: str) -> Any:
    return lambda done, total: log.event(EventType.PHASE_PROGRESS, phase=phase, done=done, total=total)
