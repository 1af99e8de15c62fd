"""What rounds of reweighing and of descent have in common: the records that they look at, and how they find their size.

Where the smallest model is wanted that loses little enough, its size is not known. A round's records tell what the
genome that it measures loses on them, and with it whether the confirm split would let it through: if so, the next round
is at a smaller size, else at a larger one. However little each round knows, they gather about the size where it is as
likely to be as not (the up-and-down method, Dixon and Mood 1948). Each turn halves the steps, and where they go on the
same way they get larger again (PEST, Taylor and Creelman 1967).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any, TypeVar

from ranksieve.search.errors import ScoringError, UnresumableError
from ranksieve.search.evolution.schedules import smallest_seed_share
from ranksieve.search.space.objectives import MaxDrop
from ranksieve.search.space.space import Genome
from ranksieve.search.start.descent import RUNG
from ranksieve.search.start.seeds import Family
from ranksieve.search.statistics.intervals import DropInterval
from ranksieve.service.job.files import read_json
from ranksieve.service.pipeline.confirmation import confidence_of
from ranksieve.service.pipeline.scoring import Candidate, TaskScorer
from ranksieve.service.policy import parts_of, policy_of, propagates
from ranksieve.service.spec import JobSpec
from ranksieve.workers.factors.propagation import MOST_EXAMPLES
from ranksieve.workers.types.scores import Failure, Reaction

DESCENT_EXAMPLES = 1024
"""Of the calibration split in a round of descent, if it has as many."""

STAIR, LEAST_STAIR, MOST_STAIR = 0.06, 0.03, 0.12
"""Of the size, a step to the next one: at first, at least, and at most. To shed more leaves steps little choice."""

ONE_WAY = 2
"""After so many steps the same way each one is twice as large."""

Kept = TypeVar("Kept")

FURTHEST = 0.03
"""Of the dense cost: about as far as the steps of one round of descent lead."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RoundRecords:
    """What rounds measure on.

    Args:
        indices: Of the calibration split.
        confidence: Of the bound of what a genome loses on them; None: they do not tell.
    """

    indices: range
    confidence: float | None = None

    def part(self, size: int, number: int) -> range:
        """The examples of a round, counted from 0: so many, the next ones each time, round and round."""
        start = number % parts_of(len(self.indices), size) * size
        return self.indices[start : start + size]

    def drop_of(self, reaction: Reaction, part: range, scorer: TaskScorer) -> DropInterval | None:
        """What a genome that has reacted on a part loses there, as the confirm split would tell, if it tells."""
        return None if self.confidence is None else scorer.drop_of(reaction, part, self.confidence)


def rounds_in(file: Path, from_json: Callable[[Any], Kept]) -> list[Kept]:
    """The rounds that a job has kept in a file; none where there is no file.

    All of them count, also where this version would take fewer: a search may have set out from them.

    Raises:
        UnresumableError: They are of another version of this program.
    """
    try:
        return [from_json(saved) for saved in read_json(file) or []]
    except (KeyError, TypeError) as error:
        raise UnresumableError(f"{file.name} is of another version; submit the job again") from error


def records_of(spec: JobSpec, calibration: int) -> RoundRecords:
    """Of so many calibration records those to measure on, and whether they tell what a genome loses.

    Where factors are trained, or errors propagated, it is those that had no part in it, if they are enough for a round
    (to tell whether propagation helps is no part). Others flatter, and after training too much to tell. Where answers
    are to be written, a round does not write any.
    """
    records, trains = range(calibration), bool(policy_of(spec).train_epochs)
    propagated = records[:MOST_EXAMPLES] if propagates(spec) else records[:0]
    trained = records[: policy_of(spec).train_examples] if trains else records[:0]
    unseen = records[max(len(propagated), len(trained)) :]
    enough = len(unseen) >= DESCENT_EXAMPLES
    if trains and not enough:
        return RoundRecords(indices=records)
    return RoundRecords(
        indices=unseen if enough else records,
        confidence=None if spec.task.kind == "generate" else confidence_of(spec),
    )


def next_stair(shares: Sequence[float], *, held: bool) -> float:
    """The size after those so far: a step down where the last one held, else up.

    Args:
        shares: Of the dense cost, in order; at least one.
        held: Whether the last one lost little enough.
    """
    step = STAIR
    down = [after < before for before, after in pairwise(shares)] + [held]
    for turns, (_, one_way) in enumerate(groupby(down)):
        step = max(step / 2, LEAST_STAIR) if turns else step
        step = min(step * 2 ** max(0, len(list(one_way)) - ONE_WAY), MOST_STAIR)
    rungs = max(1, round(min(shares[-1] * step, FURTHEST) / RUNG))
    return round(min(max(shares[-1] + (-rungs if held else rungs) * RUNG, RUNG), 1.0), 6)


def smallest_share(genome_of: Family, objective: MaxDrop, scorer: TaskScorer, confidence: float) -> float:
    """The smallest of `SEED_SHARES` at which a family loses little enough on the search split; else the largest."""
    return smallest_seed_share(lambda share: holds(genome_of(share), objective, scorer, confidence))


def holds(genome: Genome, objective: MaxDrop, scorer: TaskScorer, confidence: float) -> bool:
    """Whether a genome loses little enough on the search split, bounded by that alone: rounds go down from there."""
    (scores,) = scorer.score_candidates([Candidate(genome=genome)], "search")
    if isinstance(scores, Failure):
        return False
    try:
        return scorer.drop(scores, "search", confidence, seed=0).within(objective.points)
    except ScoringError:  # so much worse that the rise of its perplexity is no number
        return False
