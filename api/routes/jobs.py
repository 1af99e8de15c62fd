"""Jobs: submit, list, look at, cancel.

Plain functions, which FastAPI runs in its thread pool: submitting reads files and tokenizes.
"""

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Query, Response
from fastapi.responses import JSONResponse

from api.errors import responses
from api.routes.caller import Reader, Submitter
from api.schemas import EstimateBody, JobBody, JobList, JobSummary
from service.jobs import JobState
from service.spec import JobSpec

router = APIRouter(prefix="/jobs", tags=["jobs"])


@router.post(
    "",
    status_code=HTTPStatus.ACCEPTED,
    response_model=JobBody,
    responses={
        200: {"model": EstimateBody, "description": "The estimate of a dry run."},
        **responses(HTTPStatus.FORBIDDEN),
    },
)
def submit(
    spec: JobSpec,
    submitter: Submitter,
    response: Response,
    dry_run: Annotated[
        bool, Query(description="Check the job file and answer what the job would need; create nothing.")
    ] = False,
) -> JobBody | JSONResponse:
    """Check a job file against the model and the data it names, and queue it."""
    if dry_run:
        return JSONResponse(
            EstimateBody.model_validate(submitter.application.estimate(spec)).model_dump(mode="json")
        )
    job = submitter.application.submit(spec, submitter.principal.owner)
    response.headers["Location"] = f"/v1/jobs/{job.id}"
    return JobBody.of(job)


@router.get("")
def list_jobs(
    reader: Reader,
    state: Annotated[JobState | None, Query(description="Only jobs in this state.")] = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
    after: Annotated[
        str | None, Query(max_length=100, description="Id of the last job already seen.")
    ] = None,
) -> JobList:
    """List jobs, newest first."""
    found = reader.jobs.jobs(state=state, limit=limit + 1, after=after)
    jobs, more = found[:limit], len(found) > limit
    return JobList(jobs=[JobSummary.of(job) for job in jobs], next=jobs[-1].id if more else None)


@router.get("/{job_id}", responses=responses(HTTPStatus.NOT_FOUND))
def job(job_id: str, reader: Reader) -> JobBody:
    """Show a job with its spec and, once it succeeded, its result."""
    return JobBody.of(reader.jobs.job(job_id))


@router.post(
    "/{job_id}/cancel", responses=responses(HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT)
)
def cancel(job_id: str, submitter: Submitter) -> JobBody:
    """Cancel a queued job at once; ask a running one to end, which it does within seconds."""
    return JobBody.of(submitter.application.cancel(job_id, submitter.principal.sees))
