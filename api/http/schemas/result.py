"""Result of a job or an export: the dense and the sieved model in numbers.

Fields that were not measured are absent. Metrics are shares from 0 to 1, the higher the better, but for the perplexity
of kind `lm`, the lower the better.
"""

from typing import Annotated, Any, Literal, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

Split = Literal["calibration", "search", "confirm", "test"]
Share = Annotated[float, Field(description="Share of the prunable parameters that it keeps, from 0 to 1.")]
Interval = Annotated[
    list[float] | None, Field(description="Ends of a 95 % interval; null for perplexity, which has none.")
]


class Drop(TypedDict):
    """Metric lost against the reference on the same records; lower is better."""

    drop_points: Annotated[
        float | None,
        Field(
            description="Percentage points of accuracy or F1, or percent of perplexity; negative where it gains."
        ),
    ]
    drop_low: Annotated[float | None, Field(description="Lower end of a 95 % interval, in the same unit.")]
    drop_high: Annotated[float | None, Field(description="Upper end of it.")]


class Finalist(Drop):
    """Model that met the confirm split."""

    kept_share: Share
    genome: Annotated[list[int], Field(description="Level of each matrix.")]
    metric: float
    kl_nats: Annotated[
        float, Field(description="Mean KL divergence from the dense model, in nats; the lower the better.")
    ]
    risk: Annotated[
        float | None,
        Field(description="Least risk at which its drop could be promised; null without such a promise."),
    ]
    passed: Annotated[bool, Field(description="Whether it passed at the confidence asked for.")]


class Point(TypedDict):
    """Model that no smaller one beat, on the search split, which flatters it."""

    kept_share: Share
    kl_nats: float | None
    loss_nats: float | None
    drop_points: float | None
    drop_bound: float | None
    metric: float | None


class Reference(TypedDict):
    """Dense model with the help that candidates get; drops are measured from it."""

    metric: Annotated[dict[Split, float], Field(description="Metric by split.")]
    interval: dict[Split, Interval]
    tuned: Annotated[bool, Field(description="Whether it was tuned on the calibration split.")]
    blocks: Annotated[
        list[int] | None,
        Field(description="Blocks that it keeps, and blocks of the given model; null: not tuned."),
    ]


class Dense(TypedDict):
    """Dense model as it was given."""

    metric: Annotated[dict[Split, float], Field(description="Metric by split.")]
    interval: NotRequired[dict[Split, Interval]]
    helped: NotRequired[
        Annotated[dict[Split, float], Field(description="Metric with one number added to each answer.")]
    ]
    block_params: Annotated[int, Field(description="Parameters in the blocks.")]
    total_params: int
    file_bytes: Annotated[int, Field(description="Bytes of its weights on disk.")]
    tokens_per_second: Annotated[
        float, Field(description="Speed on the job's device; the higher the better.")
    ]


class Best(TypedDict):
    """Exported model."""

    metric: Annotated[dict[Split, float | None], Field(description="Metric by split.")]
    interval: NotRequired[dict[Split, Interval]]
    kl_nats: Annotated[
        dict[Split, float | None],
        Field(description="Mean KL divergence from the dense model by split, in nats; the lower the better."),
    ]
    drop: Annotated[dict[Split, Drop], Field(description="Drop from the reference, by split.")]
    drop_from_dense: NotRequired[
        Annotated[
            dict[Split, Drop], Field(description="Drop from the given model, where another is the reference.")
        ]
    ]
    block_params: Annotated[int, Field(description="Parameters in the blocks.")]
    kept_block_params: Annotated[float, Field(description="`block_params` over those of the dense model.")]
    total_params: int
    left_out_params: Annotated[
        int,
        Field(description="Parameters that the search counted, of sublayers that have no output any more."),
    ]
    file_bytes: Annotated[int, Field(description="Bytes of its weights on disk.")]
    tokens_per_second: Annotated[
        float, Field(description="Speed on the job's device; the higher the better.")
    ]


class Measured(TypedDict):
    """What an export's numbers were measured on."""

    job: Annotated[str, Field(description="Job whose candidate it exports.")]
    asked: Annotated[dict[str, int | float], Field(description="Requested `share` or `candidate`.")]
    measured_on: list[Split]
    search_examples: Annotated[
        int, Field(description="Records of the search split that the candidate was scored on.")
    ]


class Result(TypedDict):
    """Dense and sieved model in numbers, and how the search went."""

    metric_name: Annotated[str, Field(description="`accuracy`, `token_f1`, `field_f1` or `perplexity`.")]
    objective: Annotated[dict[str, Any], Field(description="The job file's objective, filled in.")]
    promise_held: Annotated[
        bool | None,
        Field(
            description="Whether the exported model keeps what the objective asked for; null where nothing was."
        ),
    ]
    confidence: NotRequired[
        Annotated[float | None, Field(description="Confidence of the promise, from 0 to 1.")]
    ]
    reference: Reference
    dense: Dense
    best: Best
    finalists: NotRequired[list[Finalist]]
    front: NotRequired[list[Point]]
    genome: Annotated[list[int], Field(description="Level of each matrix of the exported model.")]
    ranks: Annotated[dict[str, int], Field(description="Rank of each matrix by name; -1: dense.")]
    export: NotRequired[Annotated[Measured, Field(description="Of an export alone.")]]
    search_ended: NotRequired[Annotated[str, Field(description="`by itself`, or `stopped` by a user.")]]
    generations: NotRequired[int]
    evaluations: NotRequired[Annotated[int, Field(description="Scorings of the search.")]]
    tokens: NotRequired[Annotated[int, Field(description="Tokens run through candidates.")]]
    train_epochs: NotRequired[Annotated[int, Field(description="Epochs that the factors were trained for.")]]
    bits: NotRequired[
        Annotated[int | None, Field(description="Bits of a stored weight; null: those of the working dtype.")]
    ]
    target_bytes: Annotated[
        int | None, Field(description="Bytes asked for, where the objective is a file size.")
    ]
    latency: Annotated[
        dict[str, Any] | None,
        Field(
            description="Expected and measured times of a forward pass, `_ms` in milliseconds; null: not timed."
        ),
    ]
    latency_table: NotRequired[
        Annotated[
            dict[str, Any] | None, Field(description="Times of each rank of each matrix, in nanoseconds.")
        ]
    ]
    notes: NotRequired[Annotated[list[str], Field(description="What these records cannot show.")]]
    data: NotRequired[Annotated[dict[str, Any], Field(description="Digests of the records.")]]
    model: NotRequired[Annotated[dict[str, Any], Field(description="Digest and dtype of the dense model.")]]
    artifact: Annotated[str, Field(description="Folder of the exported model on the server.")]
    seconds: Annotated[dict[str, float], Field(description="Time of each phase.")]
