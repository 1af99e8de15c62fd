"""Takes the genomes that a job's search sets out from some steps along the slopes of their loss, before anything is
searched.

Slopes are measured on calibration records, so the search split is still fresh when the search compares what came of it
with the Lagrangian genome. Each round measures where the one before has come to, until there is little to be had. Where
the smallest model is wanted that loses little enough, they go up and down a staircase about the size where it does;
where many sizes are wanted, from the middle one to the smallest.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from typing import Any, Self

import numpy as np

from ranksieve.search.errors import ScoringError
from ranksieve.search.space.objectives import MaxDrop, Pareto
from ranksieve.search.space.prices import Energies, Prices
from ranksieve.search.space.sizes import Sizes
from ranksieve.search.space.space import Genome, SearchSpace
from ranksieve.search.start.descent import Slopes
from ranksieve.search.start.seeds import Family, family
from ranksieve.service.job.events import EventType
from ranksieve.service.job.files import write_json
from ranksieve.service.pipeline.confirmation import confidence_of
from ranksieve.service.pipeline.rounds import (
    DESCENT_EXAMPLES,
    RoundRecords,
    holds,
    next_stair,
    records_of,
    rounds_in,
    smallest_share,
)
from ranksieve.service.pipeline.scoring import TaskScorer
from ranksieve.service.pipeline.search_plan import SearchPlan
from ranksieve.service.policy import descent_rounds
from ranksieve.service.run.joblog import JobLog
from ranksieve.service.spec import JobSpec
from ranksieve.workers.types.scores import Failure

FILE = "descent.json"

WORTHWHILE_NATS = 2e-3
"""A round that is expected to gain less is the last at its size: the next one gains about half of that."""

UPWARDS, UPWARD = 4, 0.02
"""One of so many rounds of a staircase is for the sizes above, each by so much of the dense cost."""

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
        drop_points: What the genome that it began with loses on the round's records; None where they do not tell.
        drop_bound: Upper bound of that, as the confirm split would tell; likewise.
    """

    share: float
    steps: int
    expected_nats: float
    ladder: tuple[tuple[float, Genome], ...]
    drop_points: float | None
    drop_bound: float | None

    @property
    def genome(self) -> Genome:
        """Where it has led."""
        return self.ladder[0][1]

    @classmethod
    def from_json(cls, saved: Any) -> Self:
        """What `asdict` gave, after a round trip through JSON."""
        return cls(**{**saved, "ladder": tuple((size, tuple(genome)) for size, genome in saved["ladder"])})


def descended(
    spec: JobSpec,
    plan: SearchPlan,
    energies: Energies,
    begin: float | None,
    calibration: int,
    scorer: TaskScorer,
    log: JobLog,
) -> SearchPlan:
    """The plan with the genomes to set out from, of the sizes that were descended at and those around.

    Rounds are kept in the job's folder, so that a job that is taken up again goes on from there.

    Args:
        spec: The job.
        plan: Of its search.
        energies: The search's own, reweighed.
        begin: Where reweighing would have gone on, if that tells where to begin.
        calibration: Records of that split.
        scorer: Measures the slopes.
        log: The job.

    Raises:
        UnresumableError: Rounds of another version of this program.
        ScoringError: A loss is not finite, or there is no memory for the backward pass.
    """
    if not (most := descent_rounds(spec)):
        return plan
    report, file = log.progress("descend"), log.directory / FILE
    rounds = rounds_in(file, Round.from_json)
    report(min(len(rounds), most), most)
    sizes, records = _sizes(spec, plan, begin, scorer), records_of(spec, calibration)
    made = descent(plan.space, energies, sizes, records, scorer, rounds)
    for one in islice(made, max(0, most - len(rounds))):
        rounds.append(one)
        write_json(file, [asdict(one) for one in rounds])
        report(len(rounds), most)
        log.event(
            EventType.GENOME_DESCENDED,
            round=len(rounds),
            kept_share=plan.space.kept_share(one.genome),
            steps=one.steps,
            expected_nats=one.expected_nats,
            drop_points=one.drop_points,
            drop_bound=one.drop_bound,
        )
    if (done := len(rounds)) < most:
        report(done, done)  # no more are needed
    return replace(plan, starts=starts_of(rounds))


def starts_of(rounds: Iterable[Round]) -> dict[float, Genome]:
    """Where rounds have led at each size; the last of those that led there."""
    return {size: genome for one in rounds for size, genome in one.ladder}


def _sizes(spec: JobSpec, plan: SearchPlan, begin: float | None, scorer: TaskScorer) -> NextSize:
    if isinstance(plan.objective, MaxDrop):
        return staircase(begin, plan.objective, scorer, confidence_of(spec), descent_rounds(spec))
    if not isinstance(plan.objective, Pareto):
        return until_little(plan.objective.target(plan.space))
    shares = walk(Sizes(plan.space, plan.objective), descent_rounds(spec))
    return lambda _, rounds: shares[len(rounds)] if len(rounds) < len(shares) else None


def walk(sizes: Sizes, rounds: int) -> list[float]:
    """Sizes of a front for so many rounds, from the middle down to the smallest; larger ones lose little anyway."""
    middle = bisect_left(sizes.shares, sizes.middle * (1 - 1e-9))  # it may be a hair above one of them
    return [sizes.shares[round(place)] for place in np.linspace(middle, 0, rounds)]


def until_little(share: float) -> NextSize:
    """One size, until a round promises little."""
    return lambda _, rounds: None if rounds and rounds[-1].expected_nats > -WORTHWHILE_NATS else share


def staircase(
    begin: float | None, objective: MaxDrop, scorer: TaskScorer, confidence: float, rounds: int
) -> NextSize:
    """Stairs about the smallest size that holds, see `pipeline.rounds`, until two rounds in a row promise little.

    A round's own records say whether the confirm split would let through what it began with. Where they do not tell,
    the search split says it of what came of it. The confirm split may ask for more than either, so the last rounds go
    up from there.

    Args:
        begin: The first size; None: the smallest that holds on the search split.
        objective: Says what holds.
        scorer: Of the job.
        confidence: Of that, on the search split.
        rounds: How many there will be at most.
    """
    upwards = rounds // UPWARDS

    def next_size(genome_of: Family, done: Sequence[Round]) -> float | None:
        if not done:
            return begin or smallest_share(genome_of, objective, scorer, confidence)
        last, little = done[-1], [one.expected_nats > -WORTHWHILE_NATS for one in done]
        ends = (number for number in range(2, len(done) + 1) if all(little[number - 2 : number]))
        if (more := min(next(ends, rounds), rounds - upwards) - len(done)) <= 0:
            return round(min(last.share + UPWARD, 1.0), 6) if more > -upwards else None
        held = (
            holds(last.genome, objective, scorer, confidence)
            if last.drop_bound is None
            else last.drop_bound <= objective.points
        )
        return next_stair([one.share for one in done], held=held)

    return next_size


def descent(
    space: SearchSpace,
    energies: Energies,
    next_size: NextSize,
    records: RoundRecords,
    scorer: TaskScorer,
    earlier: Sequence[Round] = (),
) -> Iterator[Round]:
    """Rounds of descent.

    Args:
        space: Of the genomes.
        energies: Tell the Lagrangian genomes, the first of which is where it begins.
        next_size: Where to descend next, if at all.
        records: To measure on.
        scorer: Measures the slopes.
        earlier: Rounds that are done.

    Raises:
        ScoringError: A loss is not finite, or there is no memory for the backward pass.
    """
    rounds, prices = list(earlier), Prices(space, energies)
    while True:
        genome_of = family(prices, starts_of(rounds))
        if (share := next_size(genome_of, rounds)) is None:
            return
        start, examples = genome_of(share), records.part(DESCENT_EXAMPLES, len(rounds))
        reaction = scorer.react(start, examples, space.rank_step)
        if isinstance(reaction, Failure):
            raise ScoringError(f"descent failed: {reaction.reason}; effort quick does without it")
        rungs = Slopes(space, start, reaction.kept, reaction.cut).ladder(share)
        genome, expected = rungs[share]
        steps = sum(old != new for old, new in zip(start, genome, strict=True))
        ladder = tuple((size, rung) for size, (rung, _) in rungs.items())
        drop = records.drop_of(reaction, examples, scorer)
        rounds.append(
            Round(
                share=share,
                steps=steps,
                expected_nats=expected,
                ladder=ladder,
                drop_points=None if drop is None else drop.estimate,
                drop_bound=None if drop is None else drop.upper,
            )
        )
        yield rounds[-1]
