"""Records and sizes of the rounds of reweighing and of descent.

If the smallest model within a drop is wanted, its size is not known. The records of a round show the loss of the
genome that it measures, and so whether the confirm split would pass it. If so, the next round is at a smaller size,
else at a larger one. However noisy each round is, the sizes gather where a genome is as likely to pass as not (the
up-and-down method, Dixon and Mood 1948). Each turn halves the steps, and steps in one direction get larger again
(PEST, Taylor and Creelman 1967).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any, TypeVar

from ranksieve.search.errors import ScoringError, UnresumableError
from ranksieve.search.evolution.schedules import seed_shares, smallest_seed_share
from ranksieve.search.space.objectives import MaxDrop
from ranksieve.search.space.space import Genome
from ranksieve.search.start.descent import RUNG
from ranksieve.search.start.seeds import Family
from ranksieve.search.statistics.intervals import DropInterval
from ranksieve.service.job.files import read_json
from ranksieve.service.pipeline.confirmation import confidence_of
from ranksieve.service.pipeline.scoring import Candidate, TaskScorer
from ranksieve.service.policy import parts_of, propagates
from ranksieve.service.spec import JobSpec
from ranksieve.workers.factors.propagation import MOST_EXAMPLES
from ranksieve.workers.types.scores import Failure, LossSlopes

DESCENT_EXAMPLES = 1024
"""Calibration records of a round of descent, if the split has enough."""

STAIR, LEAST_STAIR, MOST_STAIR = 0.06, 0.03, 0.12
"""First, least and largest step to the next size, relative to the size.

Shedding more leaves the steps of a round little choice.
"""

ONE_WAY = 2
"""Steps in one direction after which each further one is twice as large."""

Kept = TypeVar("Kept")

FURTHEST = 0.03
"""Largest step, as a share of the dense cost.

It is about as far as the steps of one round of descent lead.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class RoundRecords:
    """Records that rounds measure on.

    Args:
        indices: Indices of the calibration split.
        confidence: Confidence of the bound on the loss of a genome on them; None: they cannot show it.
    """

    indices: range
    confidence: float | None = None

    def part(self, size: int, number: int) -> range:
        """Return the examples of a round, counted from 0: the next `size` in turn."""
        start = number % parts_of(len(self.indices), size) * size
        return self.indices[start : start + size]

    def drop_of(self, slopes: LossSlopes, part: range, scorer: TaskScorer) -> DropInterval | None:
        """Return the drop of a genome on a part, if the records can show it.

        Bounds are as the confirm split would give them.
        """
        return None if self.confidence is None else scorer.drop_of(slopes, part, self.confidence)


def rounds_in(file: Path, from_json: Callable[[Any], Kept]) -> list[Kept]:
    """Return the rounds saved in a file; empty without a file.

    All of them count, even if this version would run fewer, because a search may have started from them.

    Raises:
        UnresumableError: The rounds are of another version of this program.
    """
    try:
        return [from_json(saved) for saved in read_json(file) or []]
    except (KeyError, TypeError) as error:
        raise UnresumableError(f"{file.name} is of another version; submit the job again") from error


def records_of(spec: JobSpec, calibration: int) -> RoundRecords:
    """Choose the calibration records that rounds measure on.

    If errors are propagated, these are the records that had no part in it, if they are enough for a round. Deciding
    whether propagation helps is no part. Rounds write no answers, so records of `generate` cannot show drops.
    """
    records = range(calibration)
    unseen = records[MOST_EXAMPLES:] if propagates(spec) else records
    return RoundRecords(
        indices=unseen if len(unseen) >= DESCENT_EXAMPLES else records,
        confidence=None if spec.task.kind == "generate" else confidence_of(spec),
    )


def next_stair(shares: Sequence[float], *, held: bool) -> float:
    """Return the next size: a step down if the last one held, else up.

    Args:
        shares: Sizes so far as shares of the dense cost, in order; at least one.
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
    """Return the smallest of the seeds' sizes that holds on the search split.

    The largest, if none does.
    """
    return smallest_seed_share(
        seed_shares(scorer.space), lambda share: holds(genome_of(share), objective, scorer, confidence)
    )


def holds(genome: Genome, objective: MaxDrop, scorer: TaskScorer, confidence: float) -> bool:
    """Return whether a genome loses little enough on the search split.

    The bound is that of the search split alone, because later rounds go down from there.
    """
    (scores,) = scorer.score_candidates([Candidate(genome=genome)], "search")
    if isinstance(scores, Failure):
        return False
    try:
        return scorer.drop(scores, "search", confidence, seed=0).within(objective.points)
    except ScoringError:  # so much worse that the rise of its perplexity is no number
        return False
