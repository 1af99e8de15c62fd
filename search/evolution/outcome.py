"""Trials that a search asks for, and their outcomes.

A failed scoring is a typed failure with its reason. It carries no numbers, so it can never pass for a score.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from ranksieve.search.errors import ScoringError
from ranksieve.search.space.space import Genome


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """One genome to score on the first `examples` examples of the search split.

    Args:
        genome: Genome to score.
        examples: Number of examples.
    """

    genome: Genome
    examples: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """A scored trial: numbers, or the reason why there are none.

    Args:
        genome: Scored genome.
        examples: Number of search examples that it was scored on.
        kl_nats: Mean KL divergence from the dense model's answer distribution.
        loss_nats: Fitness to minimise, if it is not the KL.
        drop_points: Metric lost against the dense model on the same examples, in points.
        drop_bound: One-sided upper bound of the drop expected from the confirm split's fresh examples; None where the
            scorer gives no bound.
        metric: Task metric.
        tokens: Tokens run through the model.
        seconds: Time of these tokens.
        failure: Reason why scoring failed; all numbers are then None.

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
        for name in ("kl_nats", "drop_points", "metric"):
            if self.failure is None and getattr(self, name) is None:
                raise ScoringError(f"{name} must be a finite number, got None; report it as a failure")

    @classmethod
    def failed(cls, trial: Trial, reason: str, *, tokens: int = 0, seconds: float = 0.0) -> Self:
        """Return the outcome of a trial that could not be scored."""
        return cls(
            genome=trial.genome, examples=trial.examples, tokens=tokens, seconds=seconds, failure=reason
        )

    @property
    def trial(self) -> Trial:
        """The trial that the outcome answers."""
        return Trial(genome=self.genome, examples=self.examples)

    @property
    def fitness(self) -> float:
        """The loss in nats, or else the KL; smaller is better.

        It is infinite for a failure.
        """
        if self.failure is not None or self.kl_nats is None:
            return math.inf
        return self.kl_nats if self.loss_nats is None else self.loss_nats

    def within(self, points: float) -> bool:
        """Return whether a scored genome lost at most `points`.

        Where there is a bound, the bound must be within the points.
        """
        drop = self.drop_points if self.drop_bound is None else self.drop_bound
        return drop is not None and drop <= points

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values; `from_json` reverses it."""
        numbers = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {**numbers, "genome": list(self.genome)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Return the outcome of `to_json` or of a stored candidate row.

        Keys that are not fields are ignored.
        """
        fields = {name: data[name] for name in cls.__dataclass_fields__ if name in data}
        return cls(**{**fields, "genome": tuple(data["genome"])})
