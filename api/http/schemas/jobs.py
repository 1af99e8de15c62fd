"""Jobs with their artifacts and exports."""

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

from ranksieve.api.http.schemas.common import LARGEST, Shown
from ranksieve.api.http.schemas.result import Result
from ranksieve.service.job.job import Job, JobState
from ranksieve.service.spec import JobSpec, Strict


class JobErrorBody(Shown):
    """Reason why a job failed or crashed."""

    code: str = Field(description="`input`, `scoring`, `infrastructure` or `internal`.")
    message: str
    field: str | None = Field(
        default=None, description="Dotted field of the job file, where one is to blame."
    )


class JobSummary(Shown):
    """Job without its spec and result."""

    id: str
    owner: str = Field(description="Owner of the API key that submitted it; `admin` without one.")
    parent: str | None = Field(description="Of an export: the job whose candidate it exports.")
    name: str
    labels: dict[str, str]
    priority: int
    state: JobState
    cancel_requested: bool
    pause_requested: bool = Field(
        description="Whether a pause was requested that its server has yet to carry out."
    )
    stop_requested: bool = Field(description="Whether its search was asked to stop.")
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    error: JobErrorBody | None

    @classmethod
    def of(cls, shown: Job, **more: Any) -> Self:
        """Build the body of a job; `more` has the fields without attributes."""
        return super().of(
            shown,
            parent=None if shown.export is None else shown.export.job,
            priority=shown.spec.priority,
            error=None if shown.error is None else JobErrorBody.of(shown.error),
            **more,
        )


class JobBody(JobSummary):
    """Job with its spec and, once it succeeded, its result."""

    spec: JobSpec
    result: Result | None = Field(description="Null until the job has succeeded.")


class ProgressBody(Shown):
    """Phase that a job is in."""

    phase: str
    done: int
    total: int
    left_s: float | None = Field(
        description="Seconds that the rest of the phase takes at the pace so far; null before there is one. "
        "A search may end before its total."
    )


class Outcome(BaseModel):
    """What a job that succeeded has gained and lost; more is in its result."""

    kept_block_params: float = Field(description="Parameters in the blocks over those of the dense model.")
    metric_name: str = Field(
        description="`accuracy`, `token_f1`, `field_f1` or `perplexity`, as in the result."
    )
    split: str = Field(description="Split that the drop was measured on: test, else confirm.")
    drop_points: float | None = Field(description="As in the result, in the metric's unit; lower is better.")
    promise_held: bool | None = Field(description="As in the result; null where nothing was promised.")

    @classmethod
    def of(cls, result: Mapping[str, Any]) -> Self:
        """Build it from a job's result."""
        best = result["best"]
        split = "test" if "test" in best["drop"] else "confirm"
        return cls(
            kept_block_params=best["kept_block_params"],
            metric_name=result["metric_name"],
            split=split,
            drop_points=best["drop"][split]["drop_points"],
            promise_held=result["promise_held"],
        )


class ListedJob(JobSummary):
    """Job in the list of jobs."""

    progress: ProgressBody | None = Field(description="Null while it does not run, and between phases.")
    outcome: Outcome | None = Field(description="Null until the job has succeeded.")


class JobList(BaseModel):
    """Page of jobs, newest first."""

    jobs: list[ListedJob]
    next: str | None = Field(description="Value of `after` for the next page; null on the last one.")


class ExportRequest(Strict):
    """Candidate to export: exactly one of `share` and `candidate`."""

    model_config = ConfigDict(
        json_schema_extra={"oneOf": [{"required": ["share"]}, {"required": ["candidate"]}]}
    )

    share: Annotated[
        float | None, WithJsonSchema({"type": "number", "exclusiveMinimum": 0, "maximum": 1})
    ] = Field(
        default=None,
        gt=0,
        le=1,
        description="Export the best candidate that keeps at most this share of the prunable parameters.",
    )
    candidate: Annotated[
        int | None, WithJsonSchema({"type": "integer", "minimum": 1, "maximum": LARGEST})
    ] = Field(default=None, ge=1, le=LARGEST, description="Export the candidate with this `id`.")


class ExportBody(JobSummary):
    """Export: a small job; its events and artifacts are those of its id."""

    asked: dict[str, Any] = Field(description="Requested `share` or `candidate`.")
    candidate: int
    kept_share: float
    result: Result | None = Field(description="Null until the export has succeeded.")

    @classmethod
    def of(cls, shown: Job, **more: Any) -> Self:
        """Build the body of an export."""
        export = shown.export
        assert export is not None
        scoring = export.candidate
        return super().of(
            shown, asked=export.asked, candidate=scoring["id"], kept_share=scoring["kept_share"], **more
        )


class ExportList(BaseModel):
    """Exports of a job, newest first."""

    exports: list[ExportBody]


class ArtifactBody(BaseModel):
    """File of the exported model."""

    name: str = Field(description="Path inside the artifact, with forward slashes.")
    bytes: int


class ArtifactList(BaseModel):
    """Files of the exported model; empty before the job has succeeded."""

    artifacts: list[ArtifactBody]
