"""Propagates errors again, from coarse to fine: in the models that reweighing and descent have led to.

At first errors are propagated in Lagrangian models, which reweighing and descent then leave behind. Where a job wants
that, factors are made anew from those in closed form, for what matrices read in the models of the same sizes that these
rounds have led to, and with them the rounds begin anew. The search goes on from the time that has led to the least loss
of a model in the middle of these sizes, on the search split.
"""

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from ranksieve.search.errors import ScoringError
from ranksieve.search.space.prices import Energies, Prices
from ranksieve.search.space.space import Genome, SearchSpace
from ranksieve.search.start.seeds import Family, family
from ranksieve.service.job.files import write_json
from ranksieve.service.pipeline.rounds import rounds_file, rounds_in
from ranksieve.service.pipeline.scoring import Candidate, TaskScorer
from ranksieve.service.pipeline.search_plan import SearchPlan
from ranksieve.workers.factors.propagation import Ranks
from ranksieve.workers.types.scores import Failure

FILE = "propagation"

SIZES = np.arange(1, 1001) / 1000
"""Of the dense cost, those that are looked at for a model that keeps a given share of the parameters."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Led:
    """Where reweighing and descent have led after errors were propagated.

    Args:
        shares: What the models keep in which they were.
        models: Ranks of those of the same sizes now, in which they are propagated next.
        loss: Of the one in the middle, on the search split, in nats.
    """

    shares: tuple[float, ...]
    models: tuple[Ranks, ...]
    loss: float

    @classmethod
    def from_json(cls, saved: Any) -> Self:
        """What `asdict` gave, after a round trip through JSON."""
        models = tuple(tuple(ranks) for ranks in saved["models"])
        return cls(**{**saved, "shares": tuple(saved["shares"]), "models": models})


def led(plan: SearchPlan, energies: Energies, shares: Sequence[float], scorer: TaskScorer) -> Led:
    """What rounds have led to.

    Args:
        plan: With the genomes that they led to.
        energies: Reweighed.
        shares: What the models kept in which errors were propagated; one at least.
        scorer: Of the factors that the rounds had.

    Raises:
        ScoringError: The model in the middle cannot be scored.
    """
    space, genome_of = plan.space, family(Prices(plan.space, energies), plan.starts)
    middle = math.prod(shares) ** (1 / len(shares))
    (scores,) = scorer.score_candidates([Candidate(genome=_keeping(middle, space, genome_of))], "search")
    if isinstance(scores, Failure):
        raise ScoringError(f"projection.propagation_rounds: {scores.reason}; 1 does without")
    return Led(
        shares=tuple(shares),
        models=tuple(space.ranks(_keeping(share, space, genome_of)) for share in shares),
        loss=scorer.loss(scores, "search"),
    )


def _keeping(share: float, space: SearchSpace, genome_of: Family) -> Genome:
    """The largest genome that keeps at most a share of the prunable parameters, whatever sizes are counted in."""
    larger = bisect_right(SIZES, share, key=lambda size: space.kept_share(genome_of(float(size))))
    return genome_of(float(SIZES[max(0, larger - 1)]))


def kept(directory: Path) -> list[Led]:
    """What a job has kept in its folder, in order.

    Raises:
        UnresumableError: It is of another version of this program.
    """
    return rounds_in(rounds_file(directory, FILE), Led.from_json)


def keep(directory: Path, times: Sequence[Led]) -> None:
    """Keeps them."""
    write_json(rounds_file(directory, FILE), [asdict(one) for one in times])


def best(times: Sequence[Led]) -> int:
    """Which has led to the least loss; the first where there are none."""
    return min(range(len(times)), key=lambda number: times[number].loss, default=0)
