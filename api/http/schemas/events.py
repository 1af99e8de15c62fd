"""Events of a job: a model for each type, with what its data tells."""

from datetime import datetime
from typing import Annotated, Any, Literal, NotRequired

from pydantic import BaseModel, Field, TypeAdapter
from typing_extensions import TypedDict

from ranksieve.api.http.schemas.jobs import JobErrorBody
from ranksieve.api.http.schemas.result import Share, Split
from ranksieve.api.http.schemas.search import GenerationBody
from ranksieve.service.job.events import EventType
from ranksieve.service.job.job import JobState


class JobStateData(TypedDict):
    """New state of the job."""

    state: JobState
    error: NotRequired[Annotated[JobErrorBody, Field(description="Of a failed, crashed or waiting job.")]]
    retry_in_s: NotRequired[
        Annotated[
            float, Field(description="Seconds that the job waits in the queue after a fault of the machine.")
        ]
    ]
    resumed: NotRequired[
        Annotated[bool, Field(description="True if it goes on after a restart, a pause or such a wait.")]
    ]


class JobChangedData(TypedDict, total=False):
    """Changed fields with their new values."""

    name: str
    labels: dict[str, str]
    priority: int
    actors: int


class DataLoadedData(TypedDict):
    """Records of the job."""

    splits: Annotated[dict[Split, int], Field(description="Records of each split.")]
    dropped_duplicates: Annotated[int, Field(description="Records that were given twice.")]
    digests: Annotated[dict[str, Any], Field(description="SHA-256 of all records, and of each split.")]
    notes: Annotated[list[str], Field(description="What these records cannot show.")]


class ModelLoadedData(TypedDict):
    """Dense model."""

    matrices: Annotated[int, Field(description="Matrices to prune.")]
    block_params: Annotated[int, Field(description="Parameters in the blocks.")]
    total_params: int
    digest: Annotated[str, Field(description="SHA-256 of the weights.")]
    dtype: str
    device: str
    factors: Annotated[str, Field(description="Digest of what made the factors.")]


class ModelTunedData(TypedDict):
    """Dense model that was tuned on the calibration split."""

    blocks: Annotated[int, Field(description="Blocks that stay.")]
    all_blocks: int
    used: Annotated[bool, Field(description="Whether the search starts from it.")]
    dense: Annotated[float, Field(description="Metric of the given model on the search split.")]
    helped: Annotated[float, Field(description="The same with one number added to each answer.")]


class PhaseProgressData(TypedDict):
    """How far a phase is."""

    phase: str
    done: Annotated[int, Field(description="Steps done; MB for the phase `fetch`.")]
    total: Annotated[int, Field(description="Steps in all, in the same unit.")]


class LatencyMeasuredData(TypedDict):
    """Times of a forward pass at each rank of each shape of matrix."""

    table: Annotated[dict[str, Any], Field(description="Curves of ranks and their times, in nanoseconds.")]
    device: str
    dtype: str
    threads: int
    workload: Annotated[dict[str, Any], Field(description="`kind`, `rows` and `length` of the timed pass.")]
    stretched: Annotated[float, Field(description="Factor between the sum of the parts and a whole pass.")]
    stretched_ranks: Annotated[float, Field(description="The same for a pruned model.")]
    checked_nanoseconds: Annotated[
        int, Field(description="Time of a whole pass, measured to check the table.")
    ]
    expected_nanoseconds: Annotated[int, Field(description="Time of that pass by the table.")]


class DenseScoredData(TypedDict):
    """Score of the dense model on a split."""

    split: Split
    metric_name: str
    metric: Annotated[float, Field(description="Higher is better, but for `perplexity`.")]
    helped: Annotated[
        float, Field(description="The same with one number added to each answer, where that helps.")
    ]


class ActorReplacedData(TypedDict):
    """Actor that was started again."""

    actor: int
    reason: str


class ClusterNoticeData(TypedDict):
    """What keeps actors of the job from running, or from running somewhere."""

    reason: str


class CandidateFailedData(TypedDict):
    """Model that could not be scored."""

    reason: str
    generation: Annotated[int | None, Field(description="Null for a finalist.")]


class FinalistConfirmedData(TypedDict):
    """Finalist on the confirm split; drops are better the lower they are."""

    kept_share: Share
    drop_points: Annotated[
        float,
        Field(description="Percentage points of accuracy or F1, or percent of perplexity."),
    ]
    drop_low: Annotated[float, Field(description="Lower end of a 95 % interval, in the same unit.")]
    drop_high: Annotated[float, Field(description="Upper end of it.")]
    risk: Annotated[
        float | None,
        Field(description="Least risk at which the drop could be promised; null without such a promise."),
    ]


class ArtifactExportedData(TypedDict):
    """Files of the exported model."""

    path: str
    file_bytes: Annotated[int, Field(description="Bytes of its weights on disk.")]


class ArtifactVerifiedData(TypedDict):
    """Exported model, loaded back in a fresh process."""

    metric: float
    expected: Annotated[float, Field(description="Metric of the candidate, which it must reproduce.")]


class _Event(BaseModel):
    seq: int = Field(description="Counts from 1 within the job; also the id of the server-sent event.")
    at: datetime


class JobStateEvent(_Event):
    """The job's state has changed."""

    type: Literal[EventType.JOB_STATE]
    data: JobStateData


class JobChangedEvent(_Event):
    """A user has changed the job."""

    type: Literal[EventType.JOB_CHANGED]
    data: JobChangedData


class DataLoadedEvent(_Event):
    """Records were read and split."""

    type: Literal[EventType.DATA_LOADED]
    data: DataLoadedData


class ModelLoadedEvent(_Event):
    """The model was loaded."""

    type: Literal[EventType.MODEL_LOADED]
    data: ModelLoadedData


class ModelTunedEvent(_Event):
    """The dense model was tuned."""

    type: Literal[EventType.MODEL_TUNED]
    data: ModelTunedData


class PhaseProgressEvent(_Event):
    """A phase has come further."""

    type: Literal[EventType.PHASE_PROGRESS]
    data: PhaseProgressData


class LatencyMeasuredEvent(_Event):
    """Latencies were measured."""

    type: Literal[EventType.LATENCY_MEASURED]
    data: LatencyMeasuredData


class DenseScoredEvent(_Event):
    """The dense model was scored on a split."""

    type: Literal[EventType.DENSE_SCORED]
    data: DenseScoredData


class GenerationCompletedEvent(_Event):
    """A generation of the search has ended."""

    type: Literal[EventType.GENERATION_COMPLETED]
    data: GenerationBody


class ActorReplacedEvent(_Event):
    """An actor was replaced."""

    type: Literal[EventType.ACTOR_REPLACED]
    data: ActorReplacedData


class ClusterNoticeEvent(_Event):
    """The cluster has no place for an actor now."""

    type: Literal[EventType.CLUSTER_NOTICE]
    data: ClusterNoticeData


class CandidateFailedEvent(_Event):
    """A model could not be scored."""

    type: Literal[EventType.CANDIDATE_FAILED]
    data: CandidateFailedData


class FinalistConfirmedEvent(_Event):
    """A finalist was scored on the confirm split."""

    type: Literal[EventType.FINALIST_CONFIRMED]
    data: FinalistConfirmedData


class ArtifactExportedEvent(_Event):
    """The model was written."""

    type: Literal[EventType.ARTIFACT_EXPORTED]
    data: ArtifactExportedData


class ArtifactVerifiedEvent(_Event):
    """The written model was verified."""

    type: Literal[EventType.ARTIFACT_VERIFIED]
    data: ArtifactVerifiedData


EventBody = Annotated[
    JobStateEvent
    | JobChangedEvent
    | DataLoadedEvent
    | ModelLoadedEvent
    | ModelTunedEvent
    | PhaseProgressEvent
    | LatencyMeasuredEvent
    | DenseScoredEvent
    | GenerationCompletedEvent
    | ActorReplacedEvent
    | ClusterNoticeEvent
    | CandidateFailedEvent
    | FinalistConfirmedEvent
    | ArtifactExportedEvent
    | ArtifactVerifiedEvent,
    Field(discriminator="type"),
]
"""Event of a job."""

EVENT: TypeAdapter[EventBody] = TypeAdapter(EventBody)


class EventPage(BaseModel):
    """Events of a job in order."""

    events: list[EventBody]
    next: int = Field(description="Value of `after` that continues here, whether or not there is more yet.")
