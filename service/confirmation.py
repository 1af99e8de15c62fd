"""Chooses among the finalists on examples the search has not seen, then looks at the test split once."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from search.confirmation import DropInterval, fixed_sequence
from search.errors import ScoringError
from search.space import SearchSpace
from service.events import EventType
from service.joblog import JobLog
from service.scoring import Candidate, TaskScorer
from service.spec import JobSpec, MaxDrop, Pareto
from workers.scores import Failure, Scores

DEFAULT_CONFIDENCE = 0.8


@dataclass(frozen=True, kw_only=True, slots=True)
class Confirmed:
    """A finalist on the confirm split; `passed` tells whether it lost little enough there, with confidence."""

    candidate: Candidate
    scores: Scores
    drop: DropInterval
    passed: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Winner:
    """The finalist that is exported; `held` tells whether the objective's promise held on fresh examples.

    `confirmed` are all that were scored, in the order they were looked at.
    """

    candidate: Candidate
    confirm: Scores
    confirm_drop: DropInterval
    held: bool
    confidence: float
    seed: int
    confirmed: tuple[Confirmed, ...]
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

    For `max_drop` and `pareto` they are looked at in a fixed order, largest first, up to the first that may lose too
    much: the smallest one before it wins, and the chance that it breaks the promise is that of a single test. For
    `pareto` the others are scored, too, to tell of them. Where a size or a time is given the lowest loss wins.

    Raises:
        ScoringError: No finalist can be scored.
    """
    objective = spec.objective
    confirmed: list[Confirmed] = []
    report = log.progress("confirm")
    for index, candidate in enumerate(finalists):
        report(index, len(finalists))
        one = _score(spec, space, scorer, candidate, log)
        confirmed += [] if one is None else [one]
        if one is not None and not one.passed and isinstance(objective, MaxDrop):
            break
    report(len(finalists), len(finalists))
    if not confirmed:
        raise ScoringError("no finalist can be scored on the confirm split")
    if isinstance(objective, MaxDrop | Pareto):
        smallest = fixed_sequence([one.drop for one in confirmed], objective.points)
        index, held = (0, False) if smallest is None else (smallest, True)
    else:
        losses = [scorer.loss(one.scores, "confirm") for one in confirmed]
        index, held = losses.index(min(losses)), True
    return Winner(
        candidate=confirmed[index].candidate,
        confirm=confirmed[index].scores,
        confirm_drop=confirmed[index].drop,
        held=held,
        confidence=confidence_of(spec),
        seed=spec.search.seed,
        confirmed=tuple(confirmed),
    )


def confidence_of(spec: JobSpec) -> float:
    """The confidence of one-sided bounds: the objective's, where it names one."""
    objective = spec.objective
    return objective.confidence if isinstance(objective, MaxDrop | Pareto) else DEFAULT_CONFIDENCE


def _score(
    spec: JobSpec, space: SearchSpace, scorer: TaskScorer, candidate: Candidate, log: JobLog
) -> Confirmed | None:
    """A finalist on the confirm split; None if it cannot be scored."""
    (scores,) = scorer.score_candidates([candidate], "confirm")
    if isinstance(scores, Failure):
        log.event(EventType.CANDIDATE_FAILED, reason=scores.reason, generation=None)
        return None
    objective = spec.objective
    drop = scorer.drop(scores, "confirm", confidence_of(spec), spec.search.seed)
    passed = not isinstance(objective, MaxDrop | Pareto) or drop.within(objective.points)
    log.event(
        EventType.FINALIST_CONFIRMED,
        kept_share=space.kept_share(candidate.genome),
        drop_points=drop.estimate,
        drop_low=drop.low,
        drop_high=drop.high,
        passed=passed,
    )
    return Confirmed(candidate=candidate, scores=scores, drop=drop, passed=passed)
