"""Properties of a server: limits, local models, health."""

from typing import Literal

from pydantic import BaseModel, Field

from ranksieve.api.http.schemas.common import Shown


class DeviceBody(Shown):
    """Device that models can run on."""

    kind: str = Field(description="`cpu` or `cuda`.")
    name: str
    memory_bytes: int | None


class LimitsBody(Shown):
    """Limits of the server."""

    requests_per_second: int = Field(description="Per key; 0: no limit.")
    queued_jobs: int = Field(description="Per owner.")
    running_jobs: int = Field(description="On this server at once.")
    webhooks: int = Field(description="Per owner.")
    event_retention_days: float = Field(description="After a job's end.")
    cache_gib: float | None = Field(description="Null: no limit.")
    body_bytes: int = Field(description="Per request.")


class CapabilitiesBody(BaseModel):
    """Capabilities of a server."""

    versions: dict[str, str]
    devices: list[DeviceBody] = Field(description="Devices of the server's machine; a cluster may have more.")
    limits: LimitsBody


class LocalModelBody(Shown):
    """Model under the roots of this server."""

    model: dict[Literal["path"], str] = Field(
        description="Value of `model` in a job; a relative path is relative to the server's roots."
    )
    location: str | None = Field(
        description="Absolute path, for job files on the command line: their relative paths are relative to their "
        "own folder. Null unless the key is the admin's."
    )
    architecture: str | None = Field(description="Architecture in config.json; null for gguf files.")
    weight_bytes: int


class LocalModelList(BaseModel):
    """Local models that a job could start from, by their location."""

    models: list[LocalModelBody]
    complete: bool = Field(description="False if the folders are too large or too deep to list in full.")


class Health(BaseModel):
    """Health of the server: whether it runs jobs."""

    status: Literal["ok", "unhealthy"]
    version: str


class Readiness(BaseModel):
    """Readiness of the server: whether to send requests here."""

    ready: bool
    store: bool = Field(description="Whether the job store answers.")
    controller: bool = Field(description="Whether jobs are claimed and run.")
    ray: bool | None = Field(
        description="Whether the Ray cluster answers; null before the first job has started or joined one."
    )
    lacks: str | None = Field(
        None,
        description="What the Ray cluster lacks to run any job. Jobs wait for it, so the server is ready.",
    )
