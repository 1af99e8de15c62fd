"""`objective` of a job file: what makes one model better than another."""

import re
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, ByteSize, Field, model_validator

from ranksieve.service.spec.strict import Strict

MOST_TOKENS = 10_000_000
"""Of a forward pass that is timed; as many as `resources.batch_tokens` may be."""


LONGEST_SIZE = 40
"""Characters; what is longer is no size, and may be no finite number."""

_SIZE = re.compile(r"\s*(\d*\.)?\d+\s*[A-Za-z]*\s*")


def _whole_size(value: object) -> object:
    """Pydantic would read the beginning of a text, and take `1,5 GB` for one byte."""
    if isinstance(value, str) and not (len(value) <= LONGEST_SIZE and _SIZE.fullmatch(value)):
        raise ValueError(
            f"expected one number and its unit, like 120 MB or 1.5 GB; got {value[:LONGEST_SIZE]!r}"
        )
    return value


Size = Annotated[ByteSize, BeforeValidator(_whole_size)]


class MaxDrop(Strict):
    """The smallest model whose metric stays within `points` of dense, with `confidence`.

    Points are percentage points of accuracy or token F1; for `lm`, percent of perplexity.
    """

    kind: Literal["max_drop"] = "max_drop"
    points: float = Field(2.0, ge=0, le=100)
    confidence: float = Field(0.8, ge=0.5, lt=1, description="One-sided, on the confirm split.")


class TargetParams(Strict):
    """The best metric with at most `share` of the prunable parameters."""

    kind: Literal["target_params"] = "target_params"
    share: float = Field(gt=0, le=1)


class TargetBytes(Strict):
    """The best metric with weight files of at most `size`, or `share` of the dense model's; exactly one of them."""

    kind: Literal["target_bytes"] = "target_bytes"
    size: Size | None = Field(None, ge=1, description="`120 MB`, `1.5 GB`, or a number of bytes.")
    share: float | None = Field(None, gt=0, lt=1)

    @model_validator(mode="after")
    def _one_size(self) -> Self:
        if (self.size is None) == (self.share is None):
            raise ValueError("give exactly one of size and share")
        return self


class TargetLatency(Strict):
    """The best metric with a forward pass of at most `milliseconds`, or `share` of the dense model's; one of them.

    What each rank of each matrix takes is measured on the job's device before the search.
    """

    kind: Literal["target_latency"] = "target_latency"
    share: float | None = Field(None, gt=0, lt=1)
    milliseconds: float | None = Field(None, gt=0, le=86_400_000)
    workload: Literal["prefill", "decode"] = Field(
        "prefill", description="Reading `rows` prompts of `length` tokens, or writing one token after each."
    )
    rows: int | None = Field(
        None, ge=1, le=1_000_000, description="By default those of a typical batch of the search split."
    )
    length: int | None = Field(None, ge=1, le=10_000_000, description="By default that of the same batch.")

    @model_validator(mode="after")
    def _one_time(self) -> Self:
        if (self.milliseconds is None) == (self.share is None):
            raise ValueError("give exactly one of share and milliseconds")
        return self

    @model_validator(mode="after")
    def _not_too_much(self) -> Self:
        rows, length = self.rows or 1, self.length or 1
        if rows * length > MOST_TOKENS:
            most = MOST_TOKENS // length
            raise ValueError(f"rows must be at most {most:,} of length {length:,}; got {rows:,}")
        return self


class Pareto(Strict):
    """The best models of many sizes at once: the front of size against loss.

    The smallest confirmed finalist that loses no more than `points` is exported, or else the largest.
    """

    kind: Literal["pareto"] = "pareto"
    smallest: float = Field(0.2, gt=0, lt=1, description="Share of the prunable parameters.")
    largest: float = Field(0.8, gt=0, le=1)
    sizes: int = Field(13, ge=2, le=1000, description="In even steps from the smallest to the largest.")
    finalists: int = Field(5, ge=1, le=100, description="Points of the front to confirm.")
    points: float = Field(2.0, ge=0, le=100)
    confidence: float = Field(0.8, ge=0.5, lt=1, description="One-sided, on the confirm split.")

    @model_validator(mode="after")
    def _smallest_is_smaller(self) -> Self:
        if self.smallest >= self.largest:
            raise ValueError(f"smallest must be below largest, {self.largest}; got {self.smallest}")
        return self


def _written_out(value: object) -> object:
    return {"kind": value} if isinstance(value, str) else value


_Kinds = Annotated[MaxDrop | TargetParams | TargetBytes | TargetLatency | Pareto, Field(discriminator="kind")]
Objective = Annotated[
    MaxDrop | TargetParams | TargetBytes | TargetLatency | Pareto,
    Field(discriminator="kind", description="As a text: a kind with its defaults."),
    BeforeValidator(_written_out, json_schema_input_type=_Kinds | Literal["max_drop", "pareto"]),
]
