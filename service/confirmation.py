"""Chooses among the finalists on examples the search has not seen, then looks at the test split once."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from search.confirmation import DropInterval, fallback, fallback_from
from search.errors import ScoringError
from search.space import SearchSpace
from service.events import EventType
from service.joblog import JobLog
from service.refitting import Finalists
from service.scoring import Candidate, TaskScorer
from service.spec import JobSpec, MaxDrop, Pareto
from workers.scores import Failure, Scores

DEFAULT_CONFIDENCE = 0.8


@dataclass(frozen=True, kw_only=True, slots=True)
class Confirmed:
    """A finalist on the confirm split.

    `risk`: the least at which it can be said to keep the objective's promise, where that makes one. `passed`: whether
    it may, at its part of the objective's risk and what those before have passed on.
    """

    candidate: Candidate
    scores: Scores
    drop: DropInterval
    risk: float | None = None
    passed: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Winner:
    """The finalist that is exported; `held` tells whether the objective's promise held on fresh examples.

    `confirmed` are all that were scored, in the order of the finalists.
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
    spec: JobSpec,
    space: SearchSpace,
    scorer: TaskScorer,
    finalists: Finalists,
    risks: Sequence[float],
    log: JobLog,
) -> Winner:
    """Scores the finalists on the confirm split and picks the winner.

    One is refit, where the job wants that, when it is looked at.

    For `max_drop` and `pareto` they are tested (`search.confirmation`): the smallest one that holds wins, and the
    chance that it breaks the promise is that of a single test. For `max_drop` those that the test does not come to are
    not scored. Where a size or a time is given the lowest loss wins.

    Args:
        spec: The job.
        space: Of its genomes.
        scorer: Of the job.
        finalists: Largest first, where sizes differ.
        risks: Of each one, its own share of the objective's risk.
        log: Of the job.

    Raises:
        ScoringError: No finalist can be scored.
    """
    objective, confidence = spec.objective, confidence_of(spec)
    looked_at: dict[int, Confirmed | None] = {}
    report = log.progress("confirm")

    def look_at(index: int) -> Confirmed | None:
        if index not in looked_at:
            report(len(looked_at), len(finalists))
            looked_at[index] = _score(spec, space, scorer, finalists[index], log)
        return looked_at[index]

    def least_risk(index: int) -> float | None:
        one = look_at(index)
        return None if one is None else one.risk

    promised = isinstance(objective, MaxDrop | Pareto)
    if isinstance(objective, MaxDrop):
        held = fallback(risks, 1 - confidence, least_risk)
    else:
        every = tuple(range(len(finalists)))
        for index in every:
            look_at(index)
        held = fallback_from(0, 0.0, risks, 1 - confidence, least_risk) if promised else every
    report(len(finalists), len(finalists))
    confirmed = {
        index: replace(one, passed=index in held)
        for index, one in sorted(looked_at.items())
        if one is not None
    }
    if not confirmed:
        raise ScoringError("no finalist can be scored on the confirm split")
    if promised:
        winner = confirmed[held[-1] if held else min(confirmed)]
    else:
        winner = min(confirmed.values(), key=lambda one: scorer.loss(one.scores, "confirm"))
    return Winner(
        candidate=winner.candidate,
        confirm=winner.scores,
        confirm_drop=winner.drop,
        held=winner.passed,
        confidence=confidence,
        seed=spec.search.seed,
        confirmed=tuple(confirmed.values()),
    )


def confidence_of(spec: JobSpec) -> float:
    """The confidence of one-sided bounds: the objective's, where it names one."""
    objective = spec.objective
    return objective.confidence if isinstance(objective, MaxDrop | Pareto) else DEFAULT_CONFIDENCE


def _score(
    spec: JobSpec, space: SearchSpace, scorer: TaskScorer, candidate: Candidate, log: JobLog
) -> Confirmed | None:
    """A finalist on the confirm split, before the test; None if it cannot be scored."""
    objective, seed = spec.objective, spec.search.seed
    (scores,) = scorer.score_candidates([candidate], "confirm")
    try:
        if isinstance(scores, Failure):
            raise ScoringError(scores.reason)
        drop, risk = scorer.drop(scores, "confirm", confidence_of(spec), seed), None
    except ScoringError as error:
        log.event(EventType.CANDIDATE_FAILED, reason=str(error), generation=None)
        return None
    if isinstance(objective, MaxDrop | Pareto):
        certain = space.is_dense(candidate.genome)
        risk = 0.0 if certain else scorer.risk(scores, "confirm", objective.points, seed)
    log.event(
        EventType.FINALIST_CONFIRMED,
        kept_share=space.kept_share(candidate.genome),
        drop_points=drop.estimate,
        drop_low=drop.low,
        drop_high=drop.high,
        risk=risk,
    )
    return Confirmed(candidate=candidate, scores=scores, drop=drop, risk=risk)
