"""Choice among the finalists on fresh examples, then one look at the test split.

Most finalists are far within the promise. They are tested only so that smaller ones get a larger part of the risk.
Half of the examples decides about most of them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ranksieve.search.errors import ScoringError
from ranksieve.search.evolution.finalists import LARGEST_RISK, MIDDLE_RISK
from ranksieve.search.statistics.fallback import fallback, fallback_from
from ranksieve.search.statistics.intervals import DropInterval
from ranksieve.search.statistics.pvalues import FIRST_LOOK, fewest_examples, two_look_pvalue
from ranksieve.service.job.events import EventType
from ranksieve.service.pipeline.refitting import Finalists
from ranksieve.service.pipeline.scoring import Candidate, TaskScorer, half_of
from ranksieve.service.run.joblog import JobLog
from ranksieve.service.spec import JobSpec, MaxDrop, Pareto
from ranksieve.service.spec.task import MOST_RECORDS
from ranksieve.workers.types.scores import Failure, Scores, first, join_scores

DEFAULT_CONFIDENCE = 0.8


@dataclass(frozen=True, kw_only=True, slots=True)
class Confirmed:
    """A finalist on the confirm split.

    `whole`: whether it was scored on all examples. `risk`: the least risk at which it keeps the objective's promise,
    if that makes one. `passed`: whether it does at its part of the objective's risk and the risk that earlier
    finalists passed on.
    """

    candidate: Candidate
    scores: Scores
    whole: bool
    drop: DropInterval
    risk: float | None = None
    passed: bool = False

    def holds(self, risk: float) -> bool:
        """Return whether it keeps the promise at a risk."""
        return self.risk is not None and self.risk <= risk


@dataclass(frozen=True, kw_only=True, slots=True)
class Winner:
    """The finalist to export, and the confirmed ones in their order.

    `held`: whether the objective's promise held on fresh examples.
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
        """Score the winner on the test split, the only use of that split.

        Raises:
            ScoringError: The winner cannot be scored on it.
        """
        (scores,) = scorer.score_candidates([self.candidate], "test", log.progress("test"))
        if isinstance(scores, Failure):
            raise ScoringError(f"the winner cannot be scored on the test split: {scores.reason}")
        drop = scorer.drop(scores, "test", self.confidence, self.seed)
        return replace(self, test=scores, test_drop=drop)


def confirm(
    spec: JobSpec,
    scorer: TaskScorer,
    finalists: Finalists,
    risks: Sequence[float],
    log: JobLog,
) -> Winner:
    """Score the finalists on the confirm split and choose the winner.

    A finalist is refit, if the job wants that, when it is looked at.

    For `max_drop` and `pareto` the finalists are tested (`statistics.fallback`): the smallest one that holds wins, and
    the chance that it breaks the promise is that of a single test. A finalist that cannot be scored does not hold: the
    test goes on with the risk that later finalists have of their own. For `max_drop`, finalists that the test does not
    reach are not scored. If the first half of the examples decides, the second half is scored for the winner only. If a
    size or a time is given, the lowest loss wins.

    Args:
        spec: The job.
        scorer: Scorer of the job.
        finalists: Finalists, largest first if sizes differ.
        risks: Part of the objective's risk of each finalist.
        log: Log of the job.

    Raises:
        ScoringError: No finalist can be scored.
    """
    objective, confidence = spec.objective, confidence_of(spec)
    looked_at: dict[int, Confirmed | None] = {}
    report, looks = log.progress("confirm"), _Looks(spec, scorer, log)

    def look_at(index: int, risk: float = 0.0) -> Confirmed | None:
        """Score a finalist on as many examples as decide whether it holds at a risk.

        Without a risk, on all of them.
        """
        if index not in looked_at:
            report(len(looked_at), len(finalists))
            looked_at[index] = looks.first(finalists[index])
        one = looked_at[index]
        if one is not None and not one.whole and not one.holds(risk):
            looked_at[index] = looks.second(one)
        return looked_at[index]

    def least_risk(index: int, risk: float) -> float:
        one = look_at(index, risk)
        return math.inf if one is None or one.risk is None else one.risk

    promised = isinstance(objective, MaxDrop | Pareto)
    if isinstance(objective, MaxDrop):
        held = fallback(risks, 1 - confidence, least_risk)
        while (
            held and look_at(held[-1]) is None
        ):  # it cannot be scored on the other half, so it does not hold
            held = fallback(risks, 1 - confidence, least_risk)
        for index in range(
            len(finalists)
        ):  # where all that were looked at failed, take the largest that does not
            if any(looked_at.values()):
                break
            look_at(index)
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
    part = LARGEST_RISK if isinstance(objective, MaxDrop) else 1 - MIDDLE_RISK
    wanted = fewest_examples(objective.points, 1 - part * (1 - objective.confidence))
    if isinstance(objective, MaxDrop) and half_of(wanted or 0):  # the first look has its part, too
        part *= 1 - FIRST_LOOK
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


class _Looks:
    """Scorer of finalists on the confirm split, in one or two looks.

    There are two looks if a test decides and ends with the first finalist that fails: one at the first half of the
    examples, one at the others. The numbers are those of a scoring on all of them.
    """

    def __init__(self, spec: JobSpec, scorer: TaskScorer, log: JobLog) -> None:
        self._spec, self._scorer, self._log = spec, scorer, log
        self._half = scorer.half("confirm") if isinstance(spec.objective, MaxDrop) else 0

    def first(self, candidate: Candidate) -> Confirmed | None:
        """Score half of the examples, or all if there is one look; None on failure."""
        return self._confirmed(candidate, self._scores(candidate, slice(self._half or None)), not self._half)

    def second(self, one: Confirmed) -> Confirmed | None:
        """Score the other half of the examples; None on failure."""
        others = self._scores(one.candidate, slice(self._half, None))
        scores = others if isinstance(others, Failure) else join_scores([one.scores, others])
        return self._confirmed(one.candidate, scores, True)

    def _scores(self, candidate: Candidate, examples: slice) -> Scores | Failure:
        (scores,) = self._scorer.score_candidates([candidate], "confirm", examples=examples)
        return scores

    def _confirmed(self, candidate: Candidate, scores: Scores | Failure, whole: bool) -> Confirmed | None:
        try:
            if isinstance(scores, Failure):
                raise ScoringError(scores.reason)
            drop = self._scorer.drop(scores, "confirm", confidence_of(self._spec), self._spec.seed)
        except ScoringError as error:
            self._log.event(EventType.CANDIDATE_FAILED, reason=str(error), generation=None)
            return None
        one = Confirmed(
            candidate=candidate,
            scores=scores,
            whole=whole,
            drop=drop,
            risk=self._risk(candidate, scores, whole),
        )
        self._log.event(
            EventType.FINALIST_CONFIRMED,
            kept_share=self._scorer.space.kept_share(candidate.genome),
            examples=len(scores.quality),
            drop_points=drop.estimate,
            drop_low=drop.low,
            drop_high=drop.high,
            risk=one.risk,
        )
        return one

    def _risk(self, candidate: Candidate, scores: Scores, whole: bool) -> float | None:
        objective = self._spec.objective
        if not isinstance(objective, MaxDrop | Pareto):
            return None
        if self._scorer.space.is_dense(candidate.genome):
            return 0.0

        def risk_on(scores: Scores) -> float:
            return self._scorer.risk(scores, "confirm", objective.points, self._spec.seed)

        if not self._half:
            return risk_on(scores)
        return two_look_pvalue(risk_on(first(scores, self._half)), risk_on(scores) if whole else None)
