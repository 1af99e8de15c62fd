"""Choice among the finalists on fresh examples, then one look at the test split."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ranksieve.search.errors import ScoringError
from ranksieve.search.evolution.finalists import MIDDLE_RISK, STARTS, Finalist
from ranksieve.search.space.space import Genome
from ranksieve.search.statistics.fallback import fallback, fallback_from
from ranksieve.search.statistics.intervals import DropInterval
from ranksieve.search.statistics.pvalues import fewest_examples
from ranksieve.service.job.events import EventType
from ranksieve.service.pipeline.scoring import TaskScorer
from ranksieve.service.run.joblog import JobLog
from ranksieve.service.spec import JobSpec, MaxDrop, Pareto
from ranksieve.service.spec.task import MOST_RECORDS
from ranksieve.workers.types.scores import Failure, Scores

DEFAULT_CONFIDENCE = 0.8


@dataclass(frozen=True, kw_only=True, slots=True)
class Confirmed:
    """A finalist on the confirm split.

    `risk`: the least risk at which it keeps the objective's promise, if that makes one. `passed`: whether it does at
    its part of the objective's risk and the risk that earlier finalists passed on.
    """

    genome: Genome
    scores: Scores
    drop: DropInterval
    risk: float | None = None
    passed: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Winner:
    """The finalist to export, and the confirmed ones in their order.

    `held`: whether the objective's promise held on fresh examples.
    """

    genome: Genome
    confirm: Scores
    confirm_drop: DropInterval
    held: bool
    confidence: float
    seed: int
    confirmed: tuple[Confirmed, ...]
    test: Scores | None = None
    test_drop: DropInterval | None = None

    def with_test(self, scorer: TaskScorer, log: JobLog) -> "Winner":
        """Score the winner on the test split, the only use of that split.

        Raises:
            ScoringError: The winner cannot be scored on it.
        """
        (scores,) = scorer.score_candidates([self.genome], "test", log.progress("test"))
        if isinstance(scores, Failure):
            raise ScoringError(f"the winner cannot be scored on the test split: {scores.reason}")
        drop = scorer.drop(scores, "test", self.confidence, self.seed)
        return replace(self, test=scores, test_drop=drop)


def confirm(
    spec: JobSpec,
    scorer: TaskScorer,
    finalists: Sequence[Finalist],
    log: JobLog,
) -> Winner:
    """Score the finalists on the confirm split and choose the winner.

    For `max_drop` and `pareto` the finalists are tested (`statistics.fallback`): the smallest one that holds wins, and
    the chance that it breaks the promise is that of a single test. A finalist that cannot be scored does not hold: the
    test goes on with the risk that later finalists have of their own. For `max_drop`, finalists that the test does not
    reach are not scored. If a size or a time is given, the lowest loss wins.

    Args:
        spec: The job.
        scorer: Scorer of the job.
        finalists: Finalists, largest first if sizes differ.
        log: Log of the job.

    Raises:
        ScoringError: No finalist can be scored.
    """
    objective, confidence = spec.objective, confidence_of(spec)
    risks = [finalist.risk for finalist in finalists]
    looked_at: dict[int, Confirmed | None] = {}
    report = log.progress("confirm")

    def look_at(index: int) -> Confirmed | None:
        if index not in looked_at:
            report(len(looked_at), len(finalists))
            looked_at[index] = _confirmed(spec, scorer, finalists[index].genome, log)
        return looked_at[index]

    def least_risk(index: int) -> float:
        one = look_at(index)
        return math.inf if one is None or one.risk is None else one.risk

    promised = isinstance(objective, MaxDrop | Pareto)
    if isinstance(objective, MaxDrop):
        held = fallback(risks, 1 - confidence, least_risk)
        for index in range(len(finalists)):
            if any(looked_at.values()):
                break
            look_at(index)  # the largest that can be scored, if the test has found none
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
        genome=winner.genome,
        confirm=winner.scores,
        confirm_drop=winner.drop,
        held=winner.passed,
        confidence=confidence,
        seed=spec.seed,
        confirmed=tuple(confirmed.values()),
    )


def confidence_of(spec: JobSpec) -> float:
    """Return the confidence of one-sided bounds: the objective's, or the default."""
    objective = spec.objective
    return objective.confidence if isinstance(objective, MaxDrop | Pareto) else DEFAULT_CONFIDENCE


def promise_notes(spec: JobSpec) -> list[str]:
    """Return a note if the confirm split is too small for the promise.

    A model that loses nothing there would still hardly pass.
    """
    objective, records = spec.objective, spec.sizes["confirm"]
    if not isinstance(objective, MaxDrop | Pareto) or spec.task.kind == "lm":
        return []
    part = 1 / STARTS if isinstance(objective, MaxDrop) else 1 - MIDDLE_RISK
    wanted = fewest_examples(objective.points, 1 - part * (1 - objective.confidence))
    if wanted is not None and wanted <= records:
        return []
    than = (
        f"give task.data.sizes.confirm {wanted:,} or more, or allow more points or less confidence"
        if wanted is not None and wanted <= MOST_RECORDS
        else "allow more points"
    )
    return [
        f"{records:,} records to confirm are too few to promise {objective.points:g} points with a confidence of "
        f"{objective.confidence:g} for a model that only does as well as the dense one: {than}"
    ]


def _confirmed(spec: JobSpec, scorer: TaskScorer, genome: Genome, log: JobLog) -> Confirmed | None:
    """Score a finalist on the confirm split, before the test; None on failure."""
    (scores,) = scorer.score_candidates([genome], "confirm")
    try:
        if isinstance(scores, Failure):
            raise ScoringError(scores.reason)
        drop = scorer.drop(scores, "confirm", confidence_of(spec), spec.seed)
    except ScoringError as error:
        log.event(EventType.CANDIDATE_FAILED, reason=str(error), generation=None)
        return None
    one = Confirmed(genome=genome, scores=scores, drop=drop, risk=_risk(spec, scorer, genome, scores))
    log.event(
        EventType.FINALIST_CONFIRMED,
        kept_share=scorer.space.kept_share(genome),
        drop_points=drop.estimate,
        drop_low=drop.low,
        drop_high=drop.high,
        risk=one.risk,
    )
    return one


def _risk(spec: JobSpec, scorer: TaskScorer, genome: Genome, scores: Scores) -> float | None:
    objective = spec.objective
    if not isinstance(objective, MaxDrop | Pareto):
        return None
    if spec.bits is None and scorer.space.is_dense(genome):
        return 0.0
    return scorer.risk(scores, "confirm", objective.points, spec.seed)
