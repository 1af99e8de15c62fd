"""What the search asks of a scorer and what it gets back.

A failed scoring is a typed failure with its reason: it carries no numbers, so it can never pass for a score.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from ranksieve.search.errors import ScoringError
from ranksieve.search.space.space import Genome


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """One genome to score on the first `examples` examples of the search split.

    Args:
        genome: The genome.
        examples: How many.
        known: Examples, the first ones, that a race has scored it on before: they cost nothing again.
        cut: Examples after which scoring is cut, as races may have looked at it there; 0: nowhere. The same in all
            races of a search, also in one that scores everybody on all: what is computed at once is rounded together.
        screening: Only its loss will be looked at.
    """

    genome: Genome
    examples: int
    known: int = field(default=0, compare=False)
    cut: int = field(default=0, compare=False)
    screening: bool = field(default=False, compare=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """A scored trial: either the numbers, or the reason why there are none.

    Args:
        genome: The genome scored.
        examples: Search examples it was scored on.
        kl_nats: Mean KL divergence from the dense model's answer distribution.
        loss_nats: The fitness, minimised, where it is another one than the KL.
        drop_points: Metric lost against the dense model on the same examples, in points; None where only the loss was
            wanted and the metric would have cost more.
        drop_bound: One-sided upper bound of it that fresh examples are expected to give, as many as will confirm;
            None where the scorer gives none.
        metric: The task metric; None like `drop_points`.
        tokens: Tokens run through the model, without those of examples that were known.
        seconds: Time that took.
        failure: Why it could not be scored; then there are no numbers.

    Raises:
        ScoringError: A number is missing, not finite, or present beside a failure.
    """

    genome: Genome
    examples: int
    kl_nats: float | None = None
    loss_nats: float | None = None
    drop_points: float | None = None
    drop_bound: float | None = None
    metric: float | None = None
    tokens: int = 0
    seconds: float = 0.0
    failure: str | None = None

    def __post_init__(self) -> None:
        for name in ("kl_nats", "loss_nats", "drop_points", "drop_bound", "metric"):
            value = getattr(self, name)
            if value is not None and (self.failure is not None or not math.isfinite(value)):
                raise ScoringError(f"{name} must be a finite number of a scored trial, got {value}")
        if self.failure is None and self.kl_nats is None:
            raise ScoringError("kl_nats must be a finite number, got None; report it as a failure")
        if (self.metric is None) != (self.drop_points is None):
            raise ScoringError(
                f"metric and drop_points go together, got {self.metric} and {self.drop_points}"
            )

    @classmethod
    def failed(cls, trial: Trial, reason: str, *, tokens: int = 0, seconds: float = 0.0) -> Self:
        """The outcome of a trial that could not be scored, and why."""
        return cls(
            genome=trial.genome, examples=trial.examples, tokens=tokens, seconds=seconds, failure=reason
        )

    @property
    def trial(self) -> Trial:
        """The trial this answers."""
        return Trial(genome=self.genome, examples=self.examples)

    @property
    def fitness(self) -> float:
        """The loss in nats, or the KL where that is all; infinite for a failure: smaller is better."""
        if self.failure is not None or self.kl_nats is None:
            return math.inf
        return self.kl_nats if self.loss_nats is None else self.loss_nats

    def within(self, points: float) -> bool:
        """Whether it was scored and lost at most `points`, with confidence where there is a bound."""
        drop = self.drop_points if self.drop_bound is None else self.drop_bound
        return drop is not None and drop <= points

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values; `from_json` reverses it."""
        numbers = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {**numbers, "genome": list(self.genome)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """From `to_json`, or a stored candidate row: keys that are not fields are ignored."""
        fields = {name: data[name] for name in cls.__dataclass_fields__ if name in data}
        return cls(**{**fields, "genome": tuple(data["genome"])})
