"""Corrects what the energies of a job's matrices predict, by how its candidates react; see `search.reweighing`.

Each round takes the Lagrangian genome of one size, as it is allocated by the weights so far: the size that is wanted;
where many are, the middle; where the smallest model is wanted that loses little enough, the size of the smallest seed
that does so on the search split. A round looks at a part of the calibration split, the next one at the next part, and
so on round and round: what is particular to one part is then averaged out.
"""

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import count, islice

import numpy as np

from search.errors import ScoringError
from search.objectives import MaxDrop, Pareto
from search.prices import Energies
from search.reweighing import Floats, next_weights, settled, weighted
from search.schedules import SEED_SHARES
from search.seeds import Family, lagrangian
from search.sizes import Sizes
from search.space import Genome, SearchSpace
from service.confirmation import confidence_of
from service.events import EventType
from service.files import read_json, write_json
from service.joblog import JobLog
from service.scoring import Candidate, TaskScorer
from service.search_plan import SearchPlan
from service.spec import JobSpec
from service.spec.job import ROUND_EXAMPLES, parts_of
from service.spec.projection import ProjectionSpec
from workers.plan import EncodedTask
from workers.scores import Failure

FILE = "weights.json"

WINDOW_STEPS = 2
"""Of ranks on either side that are looked at: fewer components are noisier, more are further from the candidate."""


def reweighed(
    spec: JobSpec, plan: SearchPlan, energies: Energies, task: EncodedTask, scorer: TaskScorer, log: JobLog
) -> tuple[SearchPlan, Energies]:
    """The energies to search with: those of the projections, times a weight of each matrix.

    Weights are kept in the job's folder after each round, so that a job that is taken up again goes on by the same.
    The genome that is the best without them joins the seeds of the search.

    Raises:
        ScoringError: A candidate's loss is not finite, or there is no memory for its backward pass.
    """
    if not (rounds := spec.reweigh_rounds):
        return plan, energies
    report, file = log.progress("reweigh"), log.directory / FILE
    report(0, rounds)
    genome_of = partial(lagrangian, plan.space, energies)
    saved = read_json(file) or {"share": share_to_measure(spec, plan, scorer, genome_of), "rounds": []}
    share, done = saved["share"], saved["rounds"]
    reweighing = Reweighing(scorer, plan.space, energies, task, spec.projection)
    known_M = np.array(done[-1]) if done else None
    for genome, weights_M in islice(reweighing.rounds(share, len(done), known_M), max(0, rounds - len(done))):
        done.append(weights_M.tolist())
        write_json(file, saved)
        report(len(done), rounds)
        log.event(
            EventType.MATRICES_REWEIGHED,
            round=len(done),
            kept_share=plan.space.kept_share(genome),
            least=float(weights_M.min()),
            median=float(np.median(weights_M)),
            most=float(weights_M.max()),
        )
    return replace(plan, seeds=(genome_of(share), *plan.seeds)), weighted(energies, settled(done[:rounds]))


class Reweighing:
    """Measures genomes on one part of the calibration split after another.

    Args:
        scorer: Of the job.
        space: Of its matrices.
        energies: As the projections gave them, per token.
        task: Its calibration split is run.
        projection: Says how ranks step.
    """

    def __init__(
        self,
        scorer: TaskScorer,
        space: SearchSpace,
        energies: Energies,
        task: EncodedTask,
        projection: ProjectionSpec,
    ) -> None:
        self._calibration = task.splits["calibration"]
        self._scorer, self._space, self._energies = scorer, space, energies
        self._window = WINDOW_STEPS * projection.rank_step

    def part(self, number: int) -> range:
        """The calibration examples of a round, counted from 0."""
        return part_of(len(self._calibration), ROUND_EXAMPLES, number)

    def tokens(self, number: int) -> int:
        """Of one pass over the examples of a round."""
        return sum(len(row.ids) for i in self.part(number) for row in self._calibration[i].rows)

    def rounds(
        self, share: float, done: int = 0, weights_M: Floats | None = None
    ) -> Iterator[tuple[Genome, Floats]]:
        """Without an end: the genome that was measured, and the weights after it.

        Args:
            share: Its size.
            done: Earlier rounds.
            weights_M: From those.

        Raises:
            ScoringError: A genome's loss is not finite, or there is no memory for its backward pass.
        """
        weights_M = np.ones(len(self._energies)) if weights_M is None else weights_M
        for number in count(done):
            genome = lagrangian(self._space, weighted(self._energies, weights_M), share)
            weights_M = self._measured(weights_M, genome, number)
            yield genome, weights_M

    def _measured(self, weights_M: Floats, genome: Genome, number: int) -> Floats:
        """The next weights, after a round with a genome that was allocated by these."""
        part = self.part(number)
        reaction = self._scorer.react(genome, part, self._window)
        if isinstance(reaction, Failure):
            raise ScoringError(f"search.reweigh_rounds: {reaction.reason}; 0 does without")
        windows = list(zip(reaction.start, reaction.rank, reaction.stop, strict=True))
        tokens = self.tokens(number) / len(part)
        per_example = [energy * tokens for energy in self._energies]
        return next_weights(
            weights_M, per_example, windows, reaction.kept.mean(axis=0), reaction.cut.mean(axis=0)
        )


def part_of(calibration: int, size: int, number: int) -> range:
    """The calibration examples of a round, counted from 0: so many, the next ones each time, round and round."""
    start = number % parts_of(calibration, size) * size
    return range(calibration)[start : start + size]


def smallest_share(genome_of: Family, objective: MaxDrop, scorer: TaskScorer, confidence: float) -> float:
    """The smallest of `SEED_SHARES` at which a family loses little enough on the search split; else the largest."""
    smaller = bisect_left(
        SEED_SHARES,
        True,
        key=lambda share: not holds(genome_of(share), objective, scorer, confidence),
    )  # those before it hold
    return SEED_SHARES[max(0, smaller - 1)]


def holds(genome: Genome, objective: MaxDrop, scorer: TaskScorer, confidence: float) -> bool:
    """Whether a genome loses little enough on the search split."""
    (scores,) = scorer.score_candidates([Candidate(genome=genome)], "search")
    if isinstance(scores, Failure):
        return False
    return scorer.drop(scores, "search", confidence, seed=0).within(objective.points)


def share_to_measure(spec: JobSpec, plan: SearchPlan, scorer: TaskScorer, genome_of: Family) -> float:
    """The size at which candidates tell most: that which is wanted, the middle of many, or near what is looked for."""
    if isinstance(plan.objective, MaxDrop):
        return smallest_share(genome_of, plan.objective, scorer, confidence_of(spec))
    if isinstance(plan.objective, Pareto):
        return Sizes(plan.space, plan.objective).middle
    return plan.objective.target(plan.space)
