"""`objective` of a job file: what makes one model better than another."""

import re
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, ByteSize, Field, model_validator

from ranksieve.search.statistics.pvalues import MOST_CONFIDENCE
from ranksieve.service.spec.strict import ADVANCED, Strict

LONGEST_SIZE = 40
"""Most characters of a size; a longer text may be no finite number."""

_SIZE = re.compile(r"\s*(\d*\.)?\d+\s*[A-Za-z]*\s*")


def _whole_size(value: object) -> object:
    """Refuse a text that is not one whole size.

    Pydantic would read the beginning of a text, and take `1,5 GB` for one byte.
    """
    if isinstance(value, str) and not (len(value) <= LONGEST_SIZE and _SIZE.fullmatch(value)):
        raise ValueError(
            f"expected one number and its unit, like 120 MB or 1.5 GB; got {value[:LONGEST_SIZE]!r}"
        )
    return value


Size = Annotated[ByteSize, BeforeValidator(_whole_size)]


Confidence = Annotated[
    float,
    Field(
        ge=0.5,
        le=MOST_CONFIDENCE,
        description="One-sided confidence of the promise, tested on the confirm split.",
        json_schema_extra=ADVANCED,
    ),
]
Points = Annotated[
    float,
    Field(
        ge=0,
        le=100,
        description="Largest loss against the dense model: percentage points of accuracy or F1; for `lm`, "
        "percent of perplexity.",
    ),
]


class MaxDrop(Strict):
    """The smallest model whose metric stays within `points` of the dense model's.

    The dense model has the help that candidates have: it is tuned where they are, or each answer gets a fitted number.
    """

    kind: Literal["max_drop"] = "max_drop"
    points: Points = 2.0
    confidence: Confidence = 0.8


class TargetParams(Strict):
    """The best metric with at most `share` of the prunable parameters."""

    kind: Literal["target_params"] = "target_params"
    share: float = Field(gt=0, le=1, description="Share of the prunable parameters to keep.")


class TargetBytes(Strict):
    """The best metric within a size of the weight files.

    The size is exactly one of `size` and `share` of the dense model's bytes.
    """

    kind: Literal["target_bytes"] = "target_bytes"
    size: Size | None = Field(
        None,
        ge=1,
        description="Size of the weight files: `120 MB`, `1.5 GB`, or a number of bytes.",
        json_schema_extra=ADVANCED,
    )
    share: float | None = Field(None, gt=0, lt=1, description="Share of the dense model's bytes to keep.")

    @model_validator(mode="after")
    def _one_size(self) -> Self:
        if (self.size is None) == (self.share is None):
            raise ValueError("give exactly one of size and share")
        return self


class TargetLatency(Strict):
    """The best metric within the time of a forward pass.

    The time is exactly one of `milliseconds` and `share` of the dense model's time.

    The time of each rank of each matrix is measured on the job's device before the search, on a typical batch of the
    search split.
    """

    kind: Literal["target_latency"] = "target_latency"
    share: float | None = Field(None, gt=0, lt=1, description="Share of the dense model's time to keep.")
    milliseconds: float | None = Field(
        None, gt=0, le=86_400_000, description="Time of one forward pass.", json_schema_extra=ADVANCED
    )
    workload: Literal["prefill", "decode"] = Field(
        "prefill",
        description="Reading a batch of prompts, or writing one token after each.",
        json_schema_extra=ADVANCED,
    )

    @model_validator(mode="after")
    def _one_time(self) -> Self:
        if (self.milliseconds is None) == (self.share is None):
            raise ValueError("give exactly one of share and milliseconds")
        return self


class Pareto(Strict):
    """The best models of many sizes at once: the front of size against loss.

    The smallest confirmed finalist that loses no more than `points` is exported, or else the largest.
    """

    kind: Literal["pareto"] = "pareto"
    points: Points = 2.0
    confidence: Confidence = 0.8


def _written_out(value: object) -> object:
    return {"kind": value} if isinstance(value, str) else value


_Kinds = Annotated[MaxDrop | TargetParams | TargetBytes | TargetLatency | Pareto, Field(discriminator="kind")]
Objective = Annotated[
    MaxDrop | TargetParams | TargetBytes | TargetLatency | Pareto,
    Field(discriminator="kind", description="As a text: a kind with its defaults."),
    BeforeValidator(_written_out, json_schema_input_type=_Kinds | Literal["max_drop", "pareto"]),
]
