"""Takes the genomes that a job's search sets out from some steps along the slopes of their loss, before anything is
searched.

Slopes are measured on calibration records, so the search split is still fresh when the search compares what came of it
with the Lagrangian genome. Each round measures where the one before has come to, until there is little to be had. Where
the smallest model is wanted that loses little enough, they go down in size while it holds; where many sizes are, from
the middle one to the smallest.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from typing import Any, Self

import numpy as np

from search.descent import Slopes
from search.errors import ConflictError, ScoringError
from search.objectives import MaxDrop, Pareto
from search.prices import Energies
from search.seeds import Family, family
from search.sizes import Sizes
from search.space import Genome, SearchSpace
from service.confirmation import confidence_of
from service.events import EventType
from service.files import read_json, write_json
from service.joblog import JobLog
from service.reweighing import holds, part_of, smallest_share
from service.scoring import TaskScorer
from service.search_plan import SearchPlan
from service.spec import JobSpec
from workers.scores import Failure

FILE = "descent.json"

DESCENT_EXAMPLES = 1024
"""Of the calibration split in a round, if it has as many."""

WORTHWHILE_NATS = 2e-3
"""A round that is expected to gain less is the last at its size: the next one gains about half of that."""

STEPS_DOWN = (0.02, 0.01)
"""Of the dense cost: the larger is about as far as a ladder leads."""

NextSize = Callable[[Family, Sequence["Round"]], float | None]
"""The size to descend at next, by the best guess at every size and the rounds so far; None: no more is worth it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Round:
    """What came of a round of descent.

    Args:
        share: The size it was at, as the most that a genome may keep.
        steps: Genes that it moved.
        expected_nats: The change of the loss that was expected, at most 0.
        ladder: Sizes, that one first, and where steps have led, or would have, within them.
    """

    share: float
    steps: int
    expected_nats: float
    ladder: tuple[tuple[float, Genome], ...]

    @property
    def genome(self) -> Genome:
        """Where it has led."""
        return self.ladder[0][1]

    @classmethod
    def from_json(cls, saved: Any) -> Self:
        """What `asdict` gave, after a round trip through JSON.

        Raises:
            ConflictError: It is of another version of this program.
        """
        try:
            rungs = tuple((size, tuple(genome)) for size, genome in saved["ladder"])
            return cls(**{**saved, "ladder": rungs})
        except (KeyError, TypeError) as error:
            raise ConflictError(f"{FILE} is of another version; submit the job again") from error


def descended(
    spec: JobSpec, plan: SearchPlan, energies: Energies, calibration: int, scorer: TaskScorer, log: JobLog
) -> SearchPlan:
    """The plan with the genomes to set out from, of the sizes that were descended at and those around.

    Rounds are kept in the job's folder, so that a job that is taken up again goes on from there.

    Args:
        spec: The job.
        plan: Of its search.
        energies: The search's own, reweighed.
        calibration: Records of that split.
        scorer: Measures the slopes.
        log: The job.

    Raises:
        ConflictError: Rounds of another version of this program.
        ScoringError: A loss is not finite, or there is no memory for the backward pass.
    """
    if not (most := spec.descent_rounds):
        return plan
    report, file = log.progress("descend"), log.directory / FILE
    report(0, most)
    rounds = [Round.from_json(saved) for saved in read_json(file) or []]
    made = descent(plan.space, energies, _sizes(spec, plan, scorer), calibration, scorer, tuple(rounds))
    for one in islice(made, most - len(rounds)):
        rounds.append(one)
        write_json(file, [asdict(one) for one in rounds])
        report(len(rounds), most)
        log.event(
            EventType.GENOME_DESCENDED,
            round=len(rounds),
            kept_share=plan.space.kept_share(one.genome),
            steps=one.steps,
            expected_nats=one.expected_nats,
        )
    if (done := len(rounds)) < most:
        report(done, done)  # no more are needed
    return replace(plan, starts=starts_of(rounds))


def starts_of(rounds: Iterable[Round]) -> dict[float, Genome]:
    """Where rounds have led at each size; the last of those that led there."""
    return {size: genome for one in rounds for size, genome in one.ladder}


def _sizes(spec: JobSpec, plan: SearchPlan, scorer: TaskScorer) -> NextSize:
    if isinstance(plan.objective, MaxDrop):
        return downwards(plan.objective, scorer, confidence_of(spec))
    if not isinstance(plan.objective, Pareto):
        return until_little(plan.objective.target(plan.space))
    shares = walk(Sizes(plan.space, plan.objective), spec.descent_rounds)
    return lambda _, rounds: shares[len(rounds)] if len(rounds) < len(shares) else None


def walk(sizes: Sizes, rounds: int) -> list[float]:
    """Sizes of a front for so many rounds, from the middle down to the smallest; larger ones lose little anyway."""
    middle = bisect_left(sizes.shares, sizes.middle * (1 - 1e-9))  # it may be a hair above one of them
    return [sizes.shares[round(place)] for place in np.linspace(middle, 0, rounds)]


def until_little(share: float) -> NextSize:
    """One size, until a round promises little."""
    return lambda _, rounds: None if rounds and rounds[-1].expected_nats > -WORTHWHILE_NATS else share


def downwards(objective: MaxDrop, scorer: TaskScorer, confidence: float) -> NextSize:
    """From the smallest size that holds down to where a step less does not, until a round promises little there.

    Args:
        objective: Says what holds, on the search split.
        scorer: Of the job.
        confidence: Of that.
    """

    def next_size(genome_of: Family, rounds: Sequence[Round]) -> float | None:
        if not rounds:
            return smallest_share(genome_of, objective, scorer, confidence)
        share = rounds[-1].share
        for step in STEPS_DOWN:
            below = round(share - step, 6)
            if below > 0 and holds(genome_of(below), objective, scorer, confidence):
                return below
        return None if rounds[-1].expected_nats > -WORTHWHILE_NATS else share

    return next_size


def descent(
    space: SearchSpace,
    energies: Energies,
    next_size: NextSize,
    calibration: int,
    scorer: TaskScorer,
    earlier: Sequence[Round] = (),
) -> Iterator[Round]:
    """Rounds of descent.

    Args:
        space: Of the genomes.
        energies: Tell the Lagrangian genomes, the first of which is where it begins.
        next_size: Where to descend next, if at all.
        calibration: Records of that split.
        scorer: Measures the slopes.
        earlier: Rounds that are done.

    Raises:
        ScoringError: A loss is not finite, or there is no memory for the backward pass.
    """
    rounds = list(earlier)
    while True:
        genome_of = family(space, energies, starts_of(rounds))
        if (share := next_size(genome_of, rounds)) is None:
            return
        start, examples = genome_of(share), part_of(calibration, DESCENT_EXAMPLES, len(rounds))
        reaction = scorer.react(start, examples, space.rank_step)
        if isinstance(reaction, Failure):
            raise ScoringError(f"search.descent_rounds: {reaction.reason}; 0 does without")
        rungs = Slopes(space, start, reaction.kept, reaction.cut).ladder(share)
        genome, expected = rungs[share]
        steps = sum(old != new for old, new in zip(start, genome, strict=True))
        ladder = tuple((size, rung) for size, (rung, _) in rungs.items())
        rounds.append(Round(share=share, steps=steps, expected_nats=expected, ladder=ladder))
        yield rounds[-1]
