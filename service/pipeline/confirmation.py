"""Chooses among the finalists on examples the search has not seen, then looks at the test split once.

Most finalists are far within what is promised: they are tested only so that smaller ones are at a larger risk. Half of
the examples tells that of most of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ranksieve.search.errors import ScoringError
from ranksieve.search.evolution.finalists import LARGEST_RISK, MIDDLE_RISK
from ranksieve.search.space.space import SearchSpace
from ranksieve.search.statistics.fallback import fallback, fallback_from
from ranksieve.search.statistics.intervals import DropInterval
from ranksieve.search.statistics.pvalues import FIRST_LOOK, fewest_examples, of_two_looks
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

    `whole`: whether on all its examples. `risk`: the least at which it can be said to keep the objective's promise,
    where that makes one. `passed`: whether it may, at its part of the objective's risk and what those before have
    passed on.
    """

    candidate: Candidate
    scores: Scores
    whole: bool
    drop: DropInterval
    risk: float | None = None
    passed: bool = False

    def holds(self, risk: float) -> bool:
        """Whether it can be said to keep the promise, at a risk."""
        return self.risk is not None and self.risk <= risk


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

    For `max_drop` and `pareto` they are tested (`statistics.fallback`): the smallest one that holds wins, and the
    chance that it breaks the promise is that of a single test. For `max_drop` those that the test does not come to are
    not scored, and those of which the first half of the examples tells not on the others, unless one wins. Where a size
    or a time is given the lowest loss wins.

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
    report, looks = log.progress("confirm"), _Looks(spec, space, scorer, log)

    def look_at(index: int, risk: float = 0.0) -> Confirmed | None:
        """At a finalist on as many examples as it takes to tell that it holds at a risk; without one on all."""
        if index not in looked_at:
            report(len(looked_at), len(finalists))
            looked_at[index] = looks.first(finalists[index])
        one = looked_at[index]
        if one is not None and not one.whole and not one.holds(risk):
            looked_at[index] = looks.second(one)
        return looked_at[index]

    def least_risk(index: int, risk: float) -> float | None:
        one = look_at(index, risk)
        return None if one is None else one.risk

    promised = isinstance(objective, MaxDrop | Pareto)
    if isinstance(objective, MaxDrop):
        held = fallback(risks, 1 - confidence, least_risk)
        while (
            held and look_at(held[-1]) is None
        ):  # cannot be scored on the other half, and is passed over from now on
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
        seed=spec.seed,
        confirmed=tuple(confirmed.values()),
    )


def confidence_of(spec: JobSpec) -> float:
    """The confidence of one-sided bounds: the objective's, where it names one."""
    objective = spec.objective
    return objective.confidence if isinstance(objective, MaxDrop | Pareto) else DEFAULT_CONFIDENCE


def promise_notes(spec: JobSpec) -> list[str]:
    """Where the confirm split is so small that a model may lose nothing there and still hardly pass."""
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
    """Scores finalists on the confirm split, before the test.

    Where a test decides, and ends with the first that fails, there may be two looks: one at the first half of the
    examples, one at the others. The numbers are those of a scoring on all of them.
    """

    def __init__(self, spec: JobSpec, space: SearchSpace, scorer: TaskScorer, log: JobLog) -> None:
        self._spec, self._space, self._scorer, self._log = spec, space, scorer, log
        self._half = scorer.half("confirm") if isinstance(spec.objective, MaxDrop) else 0

    def first(self, candidate: Candidate) -> Confirmed | None:
        """On half of the examples, or on all, where there is one look; None if it cannot be scored."""
        return self._confirmed(candidate, self._scores(candidate, slice(self._half or None)), not self._half)

    def second(self, one: Confirmed) -> Confirmed | None:
        """On all of the examples, after half of them; None if it cannot be scored on the others."""
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
            kept_share=self._space.kept_share(candidate.genome),
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
        if self._space.is_dense(candidate.genome):
            return 0.0

        def of(scores: Scores) -> float:
            return self._scorer.risk(scores, "confirm", objective.points, self._spec.seed)

        if not self._half:
            return of(scores)
        return of_two_looks(of(first(scores, self._half)), of(scores) if whole else None)
