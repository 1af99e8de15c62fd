"""The bodies of the REST API, as pydantic models: what OpenAPI shows and clients may rely on."""

from datetime import datetime
from typing import Any, Literal, Self

from pydantic import BaseModel, Field

from service.events import Event, EventType
from service.jobs import Job, JobState
from service.spec import JobSpec


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
    detail: str
    instance: str = Field(description="Path of the request.")
    errors: list[FieldProblem] = Field(default_factory=list)


class JobErrorBody(BaseModel):
    """Why a job failed."""

    code: str = Field(description="`input`, `scoring`, `infrastructure` or `internal`.")
    message: str
    field: str | None = Field(
        default=None, description="Dotted field of the job file, where one is to blame."
    )


class JobSummary(BaseModel):
    """A job in a list: without its spec and result."""

    id: str
    name: str
    labels: dict[str, str]
    state: JobState
    cancel_requested: bool
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
            name=job.name,
            labels=job.labels,
            state=job.state,
            cancel_requested=job.cancel_requested,
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


class JobList(BaseModel):
    """A page of jobs, newest first."""

    jobs: list[JobSummary]
    next: str | None = Field(description="Value of `after` for the next page; null on the last one.")


class EventBody(BaseModel):
    """Something that happened to a job."""

    seq: int = Field(description="Counts from 1 within the job; also the id of the server-sent event.")
    type: EventType
    at: datetime
    data: dict[str, Any]

    @classmethod
    def of(cls, event: Event) -> Self:
        """The body of an event."""
        return cls(seq=event.seq, type=event.type, at=event.at, data=event.data)


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


class ArtifactBody(BaseModel):
    """One file of the exported model."""

    name: str = Field(description="Path inside the artifact, with forward slashes.")
    bytes: int


class ArtifactList(BaseModel):
    """The files of the exported model; empty until there is one."""

    artifacts: list[ArtifactBody]


class Health(BaseModel):
    """Whether the server runs jobs."""

    status: Literal["ok", "unhealthy"]
    version: str
