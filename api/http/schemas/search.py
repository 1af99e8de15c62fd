"""Generations and candidates of a job's search, and ranks."""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, Field, WithJsonSchema
from pydantic_core import PydanticCustomError
from typing_extensions import TypedDict

from ranksieve.api.http.schemas.common import Rounded


class GenerationBody(BaseModel):
    """Generation of a search, with the numbers of its best model.

    They were measured on all records of the search split. Losses and drops are better the lower they are.
    """

    generation: int = Field(description="0: the seeds.")
    target_share: float = Field(
        description="Size that it tried, as a share of the dense model's: of its prunable parameters, bytes or time, "
        "as the objective counts."
    )
    kept_share: float = Field(description="Share of the prunable parameters that its best model keeps.")
    kl_nats: float = Field(description="Mean KL divergence from the dense model's answers, in nats.")
    loss_nats: float | None = Field(
        description="Loss that the search minimises, in nats; null if its best model is of an earlier target. "
        "Comparable between generations of one target."
    )
    drop_points: float = Field(description="Metric lost against the dense model, as in a candidate.")
    metric: float = Field(description="The task's metric itself.")
    evaluations: int = Field(description="Scorings so far, of any stage.")
    tokens: int = Field(description="Tokens run through candidates so far.")
    accepted: bool = Field(description="Whether its best model was good enough at this size.")
    loss_min: float = Field(description="Least loss in the population, in nats.")
    loss_avg: float = Field(description="Mean loss of the population, in nats.")
    loss_max: float = Field(description="Largest loss in the population, in nats.")
    loss_std: float = Field(description="Standard deviation of the population's loss, in nats.")


class GenerationPage(BaseModel):
    """Generations of a job's search in order."""

    generations: list[GenerationBody]


class CandidateBody(TypedDict, total=False):
    """Scoring of a candidate on the search split: the fields that were asked for.

    All numbers are null where the scoring failed, and have six significant digits. Losses and drops are better the
    lower they are.
    """

    id: Annotated[int, Field(description="Id of the scoring, for an export or its ranks.")]
    generation: Annotated[int, Field(description="0: the seeds.")]
    genome: Annotated[list[int], Field(description="Level of each matrix.")]
    ranks: Annotated[list[int], Field(description="Rank of each matrix, -1 for dense.")]
    kept_share: Annotated[
        Rounded, Field(description="Share of the prunable parameters that it keeps, from 0 to 1.")
    ]
    kl_nats: Annotated[
        Rounded | None, Field(description="Mean KL divergence from the dense model's answers, in nats.")
    ]
    loss_nats: Annotated[
        Rounded | None,
        Field(description="Loss that the search minimises, in nats; null where that is `kl_nats`."),
    ]
    drop_points: Annotated[
        Rounded | None,
        Field(
            description="Metric lost against the dense model on the same records: percentage points of accuracy or "
            "F1, or percent of perplexity; negative where it gains. Null where only the loss was needed."
        ),
    ]
    drop_bound: Annotated[
        Rounded | None,
        Field(
            description="One-sided upper bound of the drop on fresh records, in the unit of `drop_points`; null where "
            "there is none."
        ),
    ]
    metric: Annotated[
        Rounded | None, Field(description="The task's metric itself; null where `drop_points` is.")
    ]
    tokens: Annotated[int, Field(description="Tokens run through the model.")]
    seconds: Annotated[Rounded, Field(description="Time of these tokens.")]
    failure: Annotated[str | None, Field(description="Reason why the scoring failed.")]


CANDIDATE_FIELDS = tuple(CandidateBody.__annotations__)


def _known(name: str) -> str:
    if name not in CANDIDATE_FIELDS:
        raise PydanticCustomError(
            "unknown_field", "unknown field; expected one of {known}", {"known": ", ".join(CANDIDATE_FIELDS)}
        )
    return name


CandidateField = Annotated[
    str, AfterValidator(_known), WithJsonSchema({"type": "string", "enum": list(CANDIDATE_FIELDS)})
]
"""Name of a candidate's field."""


class CandidatePage(BaseModel):
    """Scored candidates of a job's search."""

    candidates: list[CandidateBody]


class RanksBody(BaseModel):
    """Ranks of one candidate."""

    layers: list[int]
    matrices: list[str] = Field(description="Names inside a layer.")
    ranks: list[list[int | None]] = Field(
        description="A row for each layer, in it the rank of each matrix: -1 for dense, null where there is none."
    )
    densities: list[list[float | None]] = Field(
        description="A row for each layer, in it the share of numbers that each matrix keeps: 1 for dense."
    )
    dense_params: list[list[int | None]] = Field(
        description="A row for each layer, in it the numbers of each matrix when dense: the weight of its density."
    )
