"""Rounds of descent: steps from the start genomes along the slopes of their loss.

The rounds come before the search. Slopes are measured on calibration records, so the search split is still fresh when
the search compares the results with the Lagrangian genome. Each round measures at the genome of the one before, until
there is little to gain. If the smallest model within a drop is wanted, the rounds climb up and down a staircase about
its size. If many sizes are wanted, they go from the middle one to the smallest.
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
from ranksieve.search.space.space import Genome
from ranksieve.search.start.descent import Steps
from ranksieve.search.start.seeds import Family, family
from ranksieve.service.job.events import EventType
from ranksieve.service.job.files import write_json
from ranksieve.service.pipeline.confirmation import confidence_of
from ranksieve.service.pipeline.rounds.records import (
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
"""Least expected gain of a round before another one at its size.

The next round gains about half as much.
"""

UPWARDS, UPWARD = 4, 0.02
"""One in how many rounds of a staircase goes up, and its step.

The step is a share of the dense cost.
"""

NextSize = Callable[[Family, Sequence["Round"]], float | None]
"""Choice of the next size, by the best guess at every size and the rounds so far.

None: no further round is worth it.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Round:
    """Result of a round of descent.

    Args:
        share: Size of the round, as the most that a genome may keep.
        steps: Genes that it changed.
        expected_nats: Expected change of the loss, at most 0.
        ladder: Sizes, that of the round first, and the genomes that the steps led to within each.
        drop_points: Loss of the genome at the start on the round's records; None if they cannot show it.
        drop_bound: Upper bound of that loss, as the confirm split would give it; None likewise.
    """

    share: float
    steps: int
    expected_nats: float
    ladder: tuple[tuple[float, Genome], ...]
    drop_points: float | None
    drop_bound: float | None

    @property
    def genome(self) -> Genome:
        """Genome that the round led to."""
        return self.ladder[0][1]

    @classmethod
    def from_json(cls, saved: Any) -> Self:
        """Return the round from `asdict` after a round trip through JSON."""
        return cls(**{**saved, "ladder": tuple((size, tuple(genome)) for size, genome in saved["ladder"])})


def descended(
    spec: JobSpec,
    plan: SearchPlan,
    energies: Energies,
    begin: float | None,
    scorer: TaskScorer,
    log: JobLog,
) -> SearchPlan:
    """Return the plan with start genomes from descent.

    They have the sizes of the rounds and those around.

    Rounds are saved in the job's folder, so that a resumed job continues from there.

    Args:
        spec: The job.
        plan: Plan of its search.
        energies: Reweighed energies of the search.
        begin: Size that reweighing would have measured next, to begin at; None: not known.
        scorer: Measures the slopes.
        log: The job.

    Raises:
        UnresumableError: Saved rounds are of another version of this program.
        ScoringError: A loss is not finite, or memory does not suffice for the backward pass.
    """
    if not (most := descent_rounds(spec)):
        return plan
    report, file = log.progress("descend"), log.directory / FILE
    rounds = rounds_in(file, Round.from_json)
    report(min(len(rounds), most), most)
    records = records_of(spec, len(scorer.task.splits["calibration"]))
    new_rounds = descent(energies, _sizes(spec, plan, begin, scorer), records, scorer, rounds)
    for one in islice(new_rounds, max(0, most - len(rounds))):
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
    """Return the genome that rounds led to at each size; later rounds win."""
    return {size: genome for one in rounds for size, genome in one.ladder}


def _sizes(spec: JobSpec, plan: SearchPlan, begin: float | None, scorer: TaskScorer) -> NextSize:
    if isinstance(plan.objective, MaxDrop):
        return staircase(begin, plan.objective, scorer, confidence_of(spec), descent_rounds(spec))
    if not isinstance(plan.objective, Pareto):
        return until_little(plan.objective.target(plan.space))
    shares = walk(Sizes(plan.space, plan.objective), descent_rounds(spec))
    return lambda _, rounds: shares[len(rounds)] if len(rounds) < len(shares) else None


def walk(sizes: Sizes, rounds: int) -> list[float]:
    """Return sizes for rounds, from the middle of a front down to its smallest.

    Larger ones lose little anyway.
    """
    middle = bisect_left(sizes.shares, sizes.middle * (1 - 1e-9))  # it may be a hair above one of them
    return [sizes.shares[round(place)] for place in np.linspace(middle, 0, rounds)]


def until_little(share: float) -> NextSize:
    """Stay at one size until a round promises little."""
    return lambda _, rounds: None if rounds and rounds[-1].expected_nats > -WORTHWHILE_NATS else share


def staircase(
    begin: float | None, objective: MaxDrop, scorer: TaskScorer, confidence: float, rounds: int
) -> NextSize:
    """Climb stairs about the smallest size that holds, see `pipeline.rounds.records`.

    The stairs end when two rounds in a row promise little.

    A round's own records show whether the genome at its start would pass the confirm split. If they cannot, the genome
    at its end is scored on the search split. The confirm split may ask for more than either, so the last rounds go up.

    Args:
        begin: First size; None: the smallest that holds on the search split.
        objective: Objective with the largest drop.
        scorer: Scorer of the job.
        confidence: Confidence of the bound on the search split.
        rounds: Most rounds.
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
    energies: Energies,
    next_size: NextSize,
    records: RoundRecords,
    scorer: TaskScorer,
    earlier: Sequence[Round] = (),
) -> Iterator[Round]:
    """Yield rounds of descent.

    Args:
        energies: Energies of the Lagrangian genomes, the first of which is the start.
        next_size: Chooses the next size, if any.
        records: Records to measure on.
        scorer: Measures the slopes.
        earlier: Earlier rounds.

    Raises:
        ScoringError: A loss is not finite, or memory does not suffice for the backward pass.
    """
    space = scorer.space
    rounds, prices = list(earlier), Prices(space, energies)
    while True:
        genome_of = family(prices, starts_of(rounds))
        if (share := next_size(genome_of, rounds)) is None:
            return
        start, examples = genome_of(share), records.part(DESCENT_EXAMPLES, len(rounds))
        slopes = scorer.measure_slopes(start, examples, space.rank_step)
        if isinstance(slopes, Failure):
            raise ScoringError(f"descent failed: {slopes.reason}; effort quick does without it")
        rungs = Steps(space, start, slopes.kept, slopes.cut).ladder(share)
        genome, expected = rungs[share]
        steps = sum(old != new for old, new in zip(start, genome, strict=True))
        ladder = tuple((size, rung) for size, (rung, _) in rungs.items())
        drop = records.drop_of(slopes, examples, scorer)
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
