"""Takes a job's Lagrangian genome some steps along the slopes of its loss, before anything is searched.

Slopes are measured on calibration records, so the search split is still fresh when the search compares what came of it
with the Lagrangian genome. Each round measures where the one before has come to, until there is little to be had.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice

from search.descent import descended as along_slopes
from search.errors import ScoringError
from search.prices import Energies
from search.seeds import lagrangian
from search.space import Genome, SearchSpace
from service.events import EventType
from service.files import read_json, write_json
from service.joblog import JobLog
from service.reweighing import part_of, share_to_measure
from service.scoring import TaskScorer
from service.search_plan import SearchPlan
from service.spec import JobSpec
from workers.scores import Failure

FILE = "descent.json"

DESCENT_EXAMPLES = 1024
"""Of the calibration split in a round, if it has as many."""

WORTHWHILE_NATS = 2e-3
"""A round that is expected to gain less is the last: the next one gains about half of that."""


def descended(
    spec: JobSpec, plan: SearchPlan, energies: Energies, calibration: int, scorer: TaskScorer, log: JobLog
) -> SearchPlan:
    """The plan with the genome to set out from.

    Where rounds led is kept in the job's folder after each, so that a job that is taken up again goes on from there.

    Args:
        spec: The job.
        plan: Of its search.
        energies: The search's own, reweighed.
        calibration: Records of that split.
        scorer: Measures the slopes.
        log: The job.

    Raises:
        ScoringError: A loss is not finite, or there is no memory for the backward pass.
    """
    if not (rounds := spec.descent_rounds):
        return plan
    report, file = log.progress("descend"), log.directory / FILE
    report(0, rounds)
    if (saved := read_json(file)) is None:
        share = share_to_measure(spec, plan, energies, scorer)
        saved = {"share": share, "genomes": [lagrangian(plan.space, energies, share)], "expected_nats": []}
    genomes = saved["genomes"] = [tuple(genome) for genome in saved["genomes"]]
    budget, expected_nats = plan.space.budget(saved["share"]), saved["expected_nats"]
    made = descent(plan.space, genomes[-1], budget, calibration, scorer, tuple(expected_nats))
    for genome, expected in islice(made, rounds - len(expected_nats)):
        changed = sum(old != new for old, new in zip(genomes[-1], genome, strict=True))
        genomes.append(genome)
        expected_nats.append(expected)
        write_json(file, saved)
        report(len(expected_nats), rounds)
        log.event(
            EventType.GENOME_DESCENDED,
            round=len(expected_nats),
            kept_share=plan.space.kept_share(genome),
            steps=changed,
            expected_nats=expected,
        )
    if (done := len(expected_nats)) < rounds:
        report(done, done)  # no more are needed
    return replace(plan, start=genomes[-1])


def descent(
    space: SearchSpace,
    genome: Genome,
    budget: int,
    calibration: int,
    scorer: TaskScorer,
    earlier: Sequence[float] = (),
) -> Iterator[tuple[Genome, float]]:
    """The genome after each round and the change of the loss that was expected, in nats, until that is little.

    Args:
        space: Of the genome.
        genome: Where to begin.
        budget: Most it may cost.
        calibration: Records of that split.
        scorer: Measures the slopes.
        earlier: What was expected of earlier rounds.

    Raises:
        ScoringError: A loss is not finite, or there is no memory for the backward pass.
    """
    expected_nats = list(earlier)
    while not expected_nats or expected_nats[-1] <= -WORTHWHILE_NATS:
        examples = part_of(calibration, DESCENT_EXAMPLES, len(expected_nats))
        reaction = scorer.react(genome, examples, space.rank_step)
        if isinstance(reaction, Failure):
            raise ScoringError(f"search.descent_rounds: {reaction.reason}; 0 does without")
        genome, expected = along_slopes(space, genome, reaction.kept, reaction.cut, budget)
        expected_nats.append(expected)
        yield genome, expected
