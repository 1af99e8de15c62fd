"""Rounds of reweighing: corrections of energies by measured slopes.

See `search.start.reweighing`. Each round takes the Lagrangian genome of one size, allocated by the weights so far.
The size is the target, or the middle one of many. If the smallest model within a drop is wanted, the first size is
that of the smallest seed that holds on the search split, and the next ones are on stairs (`rounds.records`). Each
round measures on the next part of the calibration split, in turn, which averages out the peculiarities of one part.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import islice
from statistics import median
from typing import Any, Self

import numpy as np

from ranksieve.search.errors import ScoringError
from ranksieve.search.space.objectives import MaxDrop, Pareto
from ranksieve.search.space.prices import Energies
from ranksieve.search.space.sizes import Sizes
from ranksieve.search.start.reweighing import Floats, next_weights, settled, weighted
from ranksieve.search.start.seeds import Family, lagrangian
from ranksieve.service.job.events import EventType
from ranksieve.service.job.files import write_json
from ranksieve.service.pipeline.confirmation import confidence_of
from ranksieve.service.pipeline.rounds.records import (
    RoundRecords,
    next_stair,
    records_of,
    rounds_in,
    smallest_share,
)
from ranksieve.service.pipeline.scoring import TaskScorer
from ranksieve.service.pipeline.search_plan import SearchPlan
from ranksieve.service.policy import ROUND_EXAMPLES, reweigh_rounds
from ranksieve.service.run.joblog import JobLog
from ranksieve.service.spec import JobSpec
from ranksieve.workers.types.scores import Failure, LossSlopes

FILE = "weights.json"

WINDOW_STEPS = 2
"""Measured window on either side of a rank, in rank steps.

Fewer components are noisier, and more are further from the candidate.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Weighing:
    """Result of a round of reweighing.

    Args:
        share: Measured size, as the largest share of the dense cost.
        kept_share: Share of the prunable parameters that the genome kept.
        weights: Weight of each matrix after the round.
        drop_points: Loss of the genome on the round's records; None if they cannot show it.
        drop_bound: Upper bound of that loss, as the confirm split would give it; None likewise.
    """

    share: float
    kept_share: float
    weights: tuple[float, ...]
    drop_points: float | None
    drop_bound: float | None

    @classmethod
    def from_json(cls, saved: Any) -> Self:
        """Return the round from `asdict` after a round trip through JSON.

        Without a `kept_share`, it is the measured size.
        """
        return cls(**{"kept_share": saved["share"], **saved, "weights": tuple(saved["weights"])})


NextShare = Callable[[Sequence[Weighing]], float]
"""Choice of the next size to measure, by the rounds so far."""


def reweighed(
    spec: JobSpec,
    plan: SearchPlan,
    energies: Energies,
    scorer: TaskScorer,
    log: JobLog,
) -> tuple[SearchPlan, Energies, float | None]:
    """Return plan and energies of the search, and the size of a next round.

    The energies are those of the projections, times a weight of each matrix.

    Rounds are saved in the job's folder, so that a resumed job continues from there. The best genome without weights
    joins the seeds of the search.

    Args:
        spec: The job.
        plan: Plan of its search.
        energies: Energies of its projections.
        scorer: Measures candidates.
        log: The job.

    Returns:
        The plan, the energies, and the size of a next round if rounds can show drops.

    Raises:
        UnresumableError: Saved rounds are of another version of this program.
        ScoringError: A candidate's loss is not finite, or memory does not suffice for its backward pass.
    """
    if not (most := reweigh_rounds(spec)):
        return plan, energies, None
    report, file = log.progress("reweigh"), log.directory / FILE
    rounds = rounds_in(file, Weighing.from_json)
    report(min(len(rounds), most), most)
    genome_of = partial(lagrangian, plan.space, energies)
    records = records_of(spec, len(scorer.task.splits["calibration"]))
    next_share = _next_share(spec, plan, scorer, genome_of)
    new_rounds = Reweighing(scorer, energies, records).rounds(next_share, rounds)
    for one in islice(new_rounds, max(0, most - len(rounds))):
        rounds.append(one)
        write_json(file, [asdict(one) for one in rounds])
        report(len(rounds), most)
        log.event(
            EventType.MATRICES_REWEIGHED,
            round=len(rounds),
            kept_share=one.kept_share,
            least=min(one.weights),
            median=median(one.weights),
            most=max(one.weights),
            drop_points=one.drop_points,
            drop_bound=one.drop_bound,
        )
    weights = settled([np.array(one.weights) for one in rounds])
    seeds = (genome_of(rounds[0].share), *plan.seeds)
    begin = None if records.confidence is None else next_share(rounds)
    return replace(plan, seeds=seeds), weighted(energies, weights), begin


class Reweighing:
    """Measures genomes on one part of the calibration split after another.

    Args:
        scorer: Scorer of the job.
        energies: Energies of the projections, per token.
        records: Calibration records to measure on.
    """

    def __init__(
        self,
        scorer: TaskScorer,
        energies: Energies,
        records: RoundRecords,
    ) -> None:
        self._scorer, self._energies, self._records = scorer, energies, records

    def tokens(self, number: int) -> int:
        """Return the tokens of one pass over the examples of a round, counted from 0."""
        calibration = self._scorer.task.splits["calibration"]
        return sum(len(row.ids) for i in self._part(number) for row in calibration[i].rows)

    def rounds(self, next_share: NextShare, earlier: Sequence[Weighing] = ()) -> Iterator[Weighing]:
        """Yield rounds without end.

        Args:
            next_share: Chooses the next size.
            earlier: Earlier rounds.

        Raises:
            ScoringError: A genome's loss is not finite, or memory does not suffice for its backward pass.
        """
        rounds = list(earlier)
        while True:
            share, part = next_share(rounds), self._part(len(rounds))
            weights_M = np.array(rounds[-1].weights) if rounds else np.ones(len(self._energies))
            genome = lagrangian(self._scorer.space, weighted(self._energies, weights_M), share)
            slopes = self._scorer.measure_slopes(genome, part, WINDOW_STEPS * self._scorer.space.rank_step)
            if isinstance(slopes, Failure):
                raise ScoringError(f"reweighing failed: {slopes.reason}; effort quick does without it")
            weights_M = self._measured(weights_M, slopes, self.tokens(len(rounds)) / len(part))
            drop = self._records.drop_of(slopes, part, self._scorer)
            rounds.append(
                Weighing(
                    share=share,
                    kept_share=self._scorer.space.kept_share(genome),
                    weights=tuple(weights_M.tolist()),
                    drop_points=None if drop is None else drop.estimate,
                    drop_bound=None if drop is None else drop.upper,
                )
            )
            yield rounds[-1]

    def _part(self, number: int) -> range:
        return self._records.part(ROUND_EXAMPLES, number)

    def _measured(self, weights_M: Floats, slopes: LossSlopes, tokens: float) -> Floats:
        """Return the next weights, from slopes on examples of `tokens` tokens each."""
        windows = list(zip(slopes.start, slopes.rank, slopes.stop, strict=True))
        per_example = [energy * tokens for energy in self._energies]
        return next_weights(
            weights_M, per_example, windows, slopes.kept.mean(axis=0), slopes.cut.mean(axis=0)
        )


def _next_share(spec: JobSpec, plan: SearchPlan, scorer: TaskScorer, genome_of: Family) -> NextShare:
    """Return the choice of sizes that are most informative.

    They are the target, the middle of many, or sizes near the smallest that holds.
    """
    if isinstance(plan.objective, MaxDrop):
        smallest = partial(smallest_share, genome_of, plan.objective, scorer, confidence_of(spec))
        return on_stairs(plan.objective, smallest)
    share = (
        Sizes(plan.space, plan.objective).middle
        if isinstance(plan.objective, Pareto)
        else plan.objective.target(plan.space)
    )
    return lambda _: share


def on_stairs(objective: MaxDrop, first: Callable[[], float]) -> NextShare:
    """Climb stairs from the first size on, see `pipeline.rounds.records`.

    If rounds cannot show drops, stay at that size.
    """

    def next_share(rounds: Sequence[Weighing]) -> float:
        if not rounds:
            return first()
        if (drop := rounds[-1].drop_bound) is None:
            return rounds[-1].share
        return next_stair([one.share for one in rounds], held=drop <= objective.points)

    return next_share
