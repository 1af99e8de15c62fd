"""Chooses among the finalists on examples the search has not seen, then looks at the test split once."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from search.confirmation import DropInterval, fixed_sequence
from search.errors import ScoringError
from search.space import SearchSpace
from service.events import EventType
from service.joblog import JobLog
from service.scoring import Candidate, TaskScorer
from service.spec import JobSpec, MaxDrop
from workers.scores import Failure, Scores

DEFAULT_CONFIDENCE = 0.8


@dataclass(frozen=True, kw_only=True, slots=True)
class Winner:
    """The finalist that is exported; `held` tells whether the objective's promise held on fresh examples."""

    candidate: Candidate
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
        (scores,) = scorer.score_candidates([self.candidate], "test", log.progress("test"))
        if isinstance(scores, Failure):
            raise ScoringError(f"the winner cannot be scored on the test split: {scores.reason}")
        drop = scorer.drop(scores, "test", self.confidence, self.seed)
        return replace(self, test=scores, test_drop=drop)


def confirm(
    spec: JobSpec, space: SearchSpace, scorer: TaskScorer, finalists: Sequence[Candidate], log: JobLog
) -> Winner:
    """Scores the finalists on the confirm split and picks the winner.

    For `max_drop` they are tested in a fixed order, largest first, and the first that may lose too much is the last
    to be scored: the smallest one that passed wins, and the chance that it breaks the promise is that of a single
    test. For `target_params` the lowest loss wins.

    Raises:
        ScoringError: No finalist can be scored.
    """
    objective, confidence = spec.objective, confidence_of(spec)
    scored: list[tuple[Candidate, Scores]] = []
    drops: list[DropInterval] = []
    report = log.progress("confirm")
    for index, candidate in enumerate(finalists):
        report(index, len(finalists))
        (scores,) = scorer.score_candidates([candidate], "confirm")
        if isinstance(scores, Failure):
            log.event(EventType.CANDIDATE_FAILED, reason=scores.reason, generation=None)
            continue
        drop = scorer.drop(scores, "confirm", confidence, spec.search.seed)
        passed = not isinstance(objective, MaxDrop) or drop.within(objective.points)
        log.event(
            EventType.FINALIST_CONFIRMED,
            kept_share=space.kept_share(candidate.genome),
            drop_points=drop.estimate,
            drop_low=drop.low,
            drop_high=drop.high,
            passed=passed,
        )
        scored.append((candidate, scores))
        drops.append(drop)
        if not passed:
            break
    report(len(finalists), len(finalists))
    if not scored:
        raise ScoringError("no finalist can be scored on the confirm split")
    if isinstance(objective, MaxDrop):
        smallest = fixed_sequence(drops, objective.points)
        index, held = (0, False) if smallest is None else (smallest, True)
    else:
        losses = [scorer.loss(scores, "confirm") for _, scores in scored]
        index, held = losses.index(min(losses)), True
    return Winner(
        candidate=scored[index][0],
        confirm=scored[index][1],
        confirm_drop=drops[index],
        held=held,
        confidence=confidence,
        seed=spec.search.seed,
    )


def confidence_of(spec: JobSpec) -> float:
    """The confidence of one-sided bounds: the objective's, where it names one."""
    return spec.objective.confidence if isinstance(spec.objective, MaxDrop) else DEFAULT_CONFIDENCE
