"""What a server is and has: its limits, the words a job may use, local models, health."""

from typing import Any, Literal

from pydantic import BaseModel, Field

from ranksieve.api.http.schemas.common import MAX_BODY_BYTES, Shown


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
    efforts: list[str] = Field(description="Values of `effort`.")
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
