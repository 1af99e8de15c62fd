"""The bodies of the REST API, as pydantic models: what OpenAPI shows and clients may rely on."""

from datetime import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, WithJsonSchema

from service.events import EventType
from service.jobs import Job, JobState
from service.keys import OWNER, Scope
from service.spec import JobSpec, Strict

LARGEST = 2**31 - 1
"""No count or number of the service gets beyond this; larger ones are refused before the database sees them."""

MAX_BODY_BYTES = 4 * 1024 * 1024
"""A job file holds templates and labels, never data."""

Count = Annotated[int, Field(ge=0, le=LARGEST)]

After = Annotated[str, StringConstraints(pattern="^[0-9A-Za-z]{1,100}$")]
"""Id of the last one of the page before."""


class Shown(BaseModel):
    """The body of something that has attributes of the same names."""

    @classmethod
    def of(cls, shown: object, **more: Any) -> Self:
        """Its body; `more` are the fields that it has no attributes for."""
        return cls(**{name: getattr(shown, name) for name in cls.model_fields if name not in more}, **more)


class FieldProblem(BaseModel):
    """One offending field of a request."""

    field: str = Field(description="Dotted name in the job file, or the name of the query parameter.")
    pointer: str | None = Field(
        default=None, description="JSON pointer into the body; absent for parameters."
    )
    detail: str


class Problem(BaseModel):
    """Why a request was refused (RFC 9457)."""

    title: str
    status: int
    code: str = Field(description="What kind of error it is; stays as it is.")
    detail: str
    request_id: str = Field(description="Also in the `X-Request-ID` header and in the server's log.")
    instance: str = Field(description="Path of the request.")
    errors: list[FieldProblem] = Field(default_factory=list)


class JobErrorBody(BaseModel):
    """Why a job failed or crashed."""

    code: str = Field(description="`input`, `scoring`, `infrastructure` or `internal`.")
    message: str
    field: str | None = Field(
        default=None, description="Dotted field of the job file, where one is to blame."
    )


class JobSummary(BaseModel):
    """A job in a list: without its spec and result."""

    id: str
    owner: str = Field(description="Owner of the API key that submitted it; `admin` without one.")
    parent: str | None = Field(description="Of an export the job whose candidate it is.")
    name: str
    labels: dict[str, str]
    priority: int
    state: JobState
    cancel_requested: bool
    pause_requested: bool = Field(
        description="Whether it will be paused, once what is in flight has finished."
    )
    stop_requested: bool = Field(description="Whether it was asked to end with what it has found.")
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    error: JobErrorBody | None

    @classmethod
    def of(cls, job: Job, **more: Any) -> Self:
        """The body of a job; `more` are the fields a subclass adds."""
        error = job.error
        return cls(
            id=job.id,
            owner=job.owner,
            parent=None if job.export is None else job.export.job,
            name=job.name,
            labels=job.labels,
            priority=job.spec.priority,
            state=job.state,
            cancel_requested=job.cancel_requested,
            pause_requested=job.pause_requested,
            stop_requested=job.stop_requested,
            created_at=job.created_at,
            started_at=job.started_at,
            finished_at=job.finished_at,
            error=None if error is None else JobErrorBody.model_validate(error.as_json()),
            **more,
        )


class JobBody(JobSummary):
    """A job with its spec and, once it succeeded, its result."""

    spec: JobSpec
    result: dict[str, Any] | None = Field(description="Dense and sieved model in numbers.")

    @classmethod
    def of(cls, job: Job, **more: Any) -> Self:
        """The body of a job."""
        return super().of(job, spec=job.spec, result=job.result, **more)


class ExportRequest(Strict):
    """Which candidate to export: exactly one of `share` and `candidate`."""

    model_config = ConfigDict(
        json_schema_extra={"oneOf": [{"required": ["share"]}, {"required": ["candidate"]}]}
    )

    share: Annotated[
        float | None, WithJsonSchema({"type": "number", "exclusiveMinimum": 0, "maximum": 1})
    ] = Field(
        default=None,
        gt=0,
        le=1,
        description="The best one that keeps at most this share of the prunable parameters.",
    )
    candidate: Annotated[
        int | None, WithJsonSchema({"type": "integer", "minimum": 1, "maximum": LARGEST})
    ] = Field(default=None, ge=1, le=LARGEST, description="The one with this `id`.")


class ExportBody(JobSummary):
    """An export: a small job, under whose id are its events and its artifacts."""

    asked: dict[str, Any] = Field(description="`share` or `candidate`.")
    candidate: int
    kept_share: float
    result: dict[str, Any] | None = Field(
        description="Dense and sieved model in numbers, and on what they were measured."
    )

    @classmethod
    def of(cls, job: Job, **more: Any) -> Self:
        """The body of an export."""
        export = job.export
        assert export is not None
        return super().of(
            job,
            asked=export.asked,
            candidate=export.candidate["id"],
            kept_share=export.candidate["kept_share"],
            result=job.result,
            **more,
        )


class ExportList(BaseModel):
    """The exports of a job, newest first."""

    exports: list[ExportBody]


class JobList(BaseModel):
    """A page of jobs, newest first."""

    jobs: list[JobSummary]
    next: str | None = Field(description="Value of `after` for the next page; null on the last one.")


class EstimatedModel(BaseModel):
    """The dense model."""

    matrices: int = Field(description="Matrices to prune.")
    block_params: int
    total_params: int
    dtype: str


class EstimatedMachine(BaseModel):
    """The device whose speed the times are for."""

    name: str
    device: Literal["cpu", "cuda"]
    measured: bool = Field(description="Whether it was timed just now, or taken from a data sheet.")
    flops_per_second: float = Field(description="Of a plain matrix product in the model's dtype.")
    memory_bytes: int


class Needs(BaseModel):
    """What a phase, or the whole job, needs."""

    tokens: int = Field(description="Tokens run through the model, padding included.")
    flops: int
    host_bytes: int = Field(description="Peak memory, over all processes.")
    accelerator_bytes: int = Field(description="Peak memory of the fullest GPU; 0 without one.")
    disk_bytes: int = Field(description="Written and kept, and the most that is kept for a while.")
    seconds_low: float
    seconds_high: float


class PhaseNeeds(Needs):
    """What one phase needs."""

    phase: str


class EstimateBody(BaseModel):
    """What a job will need at most, phase by phase."""

    model: EstimatedModel
    machine: EstimatedMachine
    gram_passes: int = Field(
        description="Passes over the calibration split; more memory for Grams, fewer passes."
    )
    evaluations_at_most: int = Field(description="Bound of the search, which may well end sooner.")
    phases: list[PhaseNeeds]
    total: Needs
    notes: list[str] = Field(description="What will not fit, and what was assumed.")


class EventBody(Shown):
    """Something that happened to a job."""

    seq: int = Field(description="Counts from 1 within the job; also the id of the server-sent event.")
    type: EventType
    at: datetime
    data: dict[str, Any]


class EventPage(BaseModel):
    """Events of a job in order."""

    events: list[EventBody]
    next: int = Field(description="Value of `after` that continues here, whether or not there is more yet.")


class GenerationPage(BaseModel):
    """Generations of a job's search in order."""

    generations: list[dict[str, Any]]


class CandidatePage(BaseModel):
    """Scored candidates of a job's search."""

    candidates: list[dict[str, Any]]


class RanksBody(BaseModel):
    """The ranks of one candidate."""

    layers: list[int]
    matrices: list[str] = Field(description="Names inside a layer.")
    ranks: list[list[int | None]] = Field(
        description="A row for each layer, in it the rank of each matrix: -1 for dense, null where there is none."
    )


class ArtifactBody(BaseModel):
    """One file of the exported model."""

    name: str = Field(description="Path inside the artifact, with forward slashes.")
    bytes: int


class ArtifactList(BaseModel):
    """The files of the exported model; empty until there is one."""

    artifacts: list[ArtifactBody]


class NewKey(Strict):
    """The key to make."""

    owner: str = Field(pattern=OWNER, description="Whose jobs it is for, e.g. `alice`.")
    scope: Scope = Field(default=Scope.SUBMIT, strict=False)
    days: int | None = Field(
        default=None,
        strict=True,
        ge=1,
        le=3650,
        description="So long it is good; without it, until it is revoked.",
    )


class Rotation(Strict):
    """How a key is replaced."""

    grace_hours: int = Field(
        default=0,
        strict=True,
        ge=0,
        le=8760,
        description="So long the old key stays good beside the new one.",
    )


class KeyBody(Shown):
    """An API key, without its secret."""

    id: str
    owner: str
    scope: Scope
    created_at: datetime
    expires_at: datetime | None = Field(description="From when on it is no longer good.")


class SecretKeyBody(KeyBody):
    """A new API key."""

    secret: str = Field(description="To be sent as a bearer token. It is shown once and kept nowhere.")


class KeyList(BaseModel):
    """All API keys, oldest first."""

    keys: list[KeyBody]


class DeviceBody(BaseModel):
    """What models can run on."""

    kind: str = Field(description="`cpu` or `cuda`.")
    name: str
    memory_bytes: int | None


class LimitsBody(BaseModel):
    """How much there may be."""

    requests_per_second: int = Field(description="Of one key; 0: no limit.")
    queued_jobs: int = Field(description="Of one owner.")
    running_jobs: int = Field(description="Of this server, at once.")
    webhooks: int = Field(description="Of one owner.")
    event_retention_days: float = Field(description="After a job's end.")
    cache_gib: float | None = Field(description="Null: no limit.")
    body_bytes: int = Field(default=MAX_BODY_BYTES, description="Of one request.")


class CapabilitiesBody(BaseModel):
    """What a server can do."""

    versions: dict[str, str]
    devices: list[DeviceBody] = Field(description="Of the server's machine; a cluster may have more.")
    limits: LimitsBody
    tasks: list[str] = Field(description="Values of `task.kind`.")
    methods: list[str] = Field(description="Values of `projection.method`.")
    fisher: list[str] = Field(description="Values of `projection.fisher`.")
    storage: list[str] = Field(description="Values of `projection.storage`.")
    dtypes: list[str] = Field(description="Values of `model.dtype`.")
    objectives: list[str] = Field(description="Values of `objective.kind`.")


class LocalModelBody(Shown):
    """A model under the roots of this server."""

    model: dict[Literal["path", "gguf"], str] = Field(
        description="What to put under `model` of a job; a relative path counts from the server's roots."
    )
    location: str = Field(
        description="The same path from the top. A job file on the command line, whose relative paths count from its "
        "own folder, takes this one."
    )
    architecture: str | None = Field(description="As config.json names it; null for gguf files.")
    weight_bytes: int


class LocalModelList(BaseModel):
    """The local models that a job could start from, by their location."""

    models: list[LocalModelBody]
    complete: bool = Field(
        description="False where there is too much, or too deep, to be looked at: then there may be more."
    )


class TaskKindBody(BaseModel):
    """A kind of task, and which other fields of `task` go with it."""

    kind: str = Field(description="Value of `task.kind`.")
    meaning: str
    metric_name: str = Field(description="What results call its metric.")
    needs: list[str] = Field(description="Fields that have to be there, and not empty.")
    needs_one: list[str] = Field(description="Fields of which exactly one has to be there.")
    may_have: list[str]
    cannot_have: list[str]
    example: dict[str, Any] = Field(description="A `task` of this kind.")


class TaskKindList(BaseModel):
    """The kinds of tasks."""

    tasks: list[TaskKindBody]


class Health(BaseModel):
    """Whether the server runs jobs."""

    status: Literal["ok", "unhealthy"]
    version: str


class Readiness(BaseModel):
    """Whether requests are worth sending here."""

    ready: bool
    store: bool = Field(description="Whether the job store answers.")
    controller: bool = Field(description="Whether jobs are claimed and run.")
    ray: bool | None = Field(
        description="Whether the Ray cluster answers; null before the first job has started or joined one."
    )
