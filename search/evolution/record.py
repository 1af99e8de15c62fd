"""Record of one generation, for events, storage and curves."""

from dataclasses import dataclass, fields
from typing import Any, Self

from ranksieve.search.errors import ScoringError
from ranksieve.search.evolution.outcome import Outcome
from ranksieve.search.space.space import SearchSpace


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerationRecord:
    """Record of one finished generation.

    Args:
        generation: Number of the generation; 0 scores the seeds.
        target_share: Size it worked at; for the seeds of `MaxDrop`, the size that they started the search from.
        kept_share: Share of the prunable parameters the incumbent keeps.
        kl_nats: The incumbent's KL on all search examples.
        loss_nats: The incumbent's loss there; None while nothing at the target is scored on all examples.
        drop_points: Metric that the incumbent loses there, in points.
        metric: Metric that the incumbent reaches there.
        evaluations: Scorings so far.
        tokens: Tokens run through candidates so far.
        accepted: Whether the incumbent was good enough at this size.
        loss_min: Smallest loss in the population, in nats; the next three are over the population too.
        loss_avg: Mean.
        loss_max: Largest.
        loss_std: Standard deviation.
        outcomes: All outcomes of this generation, in the order of its trials.
    """

    generation: int
    target_share: float
    kept_share: float
    kl_nats: float
    loss_nats: float | None
    drop_points: float
    metric: float
    evaluations: int
    tokens: int
    accepted: bool
    loss_min: float
    loss_avg: float
    loss_max: float
    loss_std: float
    outcomes: tuple[Outcome, ...]

    @classmethod
    def of(cls, incumbent: Outcome, **rest: Any) -> Self:
        """Return the record of `incumbent`; `rest` are the other fields.

        Raises:
            ScoringError: The incumbent is a failure.
        """
        if incumbent.failure is not None:
            raise ScoringError(f"the incumbent failed: {incumbent.failure}")
        numbers = {name: getattr(incumbent, name) for name in ("kl_nats", "drop_points", "metric")}
        return cls(**numbers, **rest)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values without the outcomes; see `candidates`."""
        return {entry.name: getattr(self, entry.name) for entry in fields(self) if entry.name != "outcomes"}

    def candidates(self, space: SearchSpace) -> list[dict[str, Any]]:
        """Return the outcomes as storable rows.

        Each has its generation, the share that it keeps and the rank of every matrix.
        """
        return [
            {
                **outcome.to_json(),
                "generation": self.generation,
                "kept_share": space.kept_share(outcome.genome),
                "ranks": list(space.ranks(outcome.genome)),
            }
            for outcome in self.outcomes
        ]
