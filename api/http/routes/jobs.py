"""Jobs: list, look at; change, pause, resume, stop, cancel, delete.

FastAPI runs plain functions in its thread pool.
"""

from dataclasses import replace
from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, HTTPException, Query, Response
from pydantic import StringConstraints
from pydantic.json_schema import SkipJsonSchema

from ranksieve.api.http.errors import responses
from ranksieve.api.http.requests.json_bodies import JsonRoute
from ranksieve.api.http.routes.caller import Caller, Reader, Submitter
from ranksieve.api.http.routes.etags import IfNoneMatch, tagged
from ranksieve.api.http.schemas.common import After
from ranksieve.api.http.schemas.jobs import JobBody, JobList, ListedJob, Outcome, ProgressBody
from ranksieve.service.job.changes import JobChanges
from ranksieve.service.job.job import Job, JobState, Request
from ranksieve.service.server.keys import Scope
from ranksieve.service.spec import LONGEST_LABEL

router = APIRouter(prefix="/jobs", tags=["jobs"], route_class=JsonRoute)

_REQUESTED = responses(HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT)


Label = Annotated[str, StringConstraints(pattern="^[^:\\x00]+:[^\\x00]*$", max_length=2 * LONGEST_LABEL + 1)]


@router.get("")
def list_jobs(
    reader: Reader,
    state: Annotated[
        list[JobState], Query(max_length=len(JobState), description="Only jobs in one of these states.")
    ] = [],  # noqa: B006 (read by FastAPI)
    label: Annotated[
        list[Label], Query(max_length=20, description="Only jobs with this label: `name:value`.")
    ] = [],  # noqa: B006 (read by FastAPI)
    search: Annotated[
        str,
        Query(
            pattern=r"^[^\x00]*$",
            max_length=100,
            description="Only jobs with this in their name or owner, in any case, or with an `id` that begins so.",
        ),
    ] = "",
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
    after: Annotated[After | SkipJsonSchema[None], Query(description="`next` of the previous page.")] = None,
) -> JobList:
    """List jobs, newest first."""
    found = reader.jobs.jobs(states=state, labels=label, search=search, limit=limit + 1, after=after)
    jobs, more = found[:limit], len(found) > limit
    return JobList(jobs=[_listed(reader, job) for job in jobs], next=jobs[-1].id if more else None)


@router.get(
    "/{job_id}",
    response_model=JobBody,
    responses={304: {"description": "Not modified."}, **responses(HTTPStatus.NOT_FOUND)},
)
def job(job_id: str, reader: Reader, if_none_match: IfNoneMatch = None) -> Response:
    """Show a job with its spec and, once it succeeded, its result."""
    return tagged(JobBody.of(reader.shown_job(reader.jobs.job(job_id))), if_none_match)


@router.patch("/{job_id}", responses=_REQUESTED)
def change(job_id: str, changes: JobChanges, submitter: Submitter) -> JobBody:
    """Change a job's name, labels, priority or actors."""
    submitter.jobs.job(job_id)  # another's looks like none, whatever is asked of it
    check_priority(submitter, changes.priority)
    job = submitter.application.controller.change(job_id, changes, submitter.principal.sees)
    return JobBody.of(submitter.shown_job(job))


@router.delete(
    "/{job_id}",
    status_code=HTTPStatus.NO_CONTENT,
    responses=responses(HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT),
)
def delete(job_id: str, submitter: Submitter) -> None:
    """Delete a job that has ended, with its events, its candidates and its files."""
    submitter.application.delete(job_id, submitter.principal.sees)


@router.post("/{job_id}/pause", responses=_REQUESTED)
def pause(job_id: str, submitter: Submitter) -> JobBody:
    """Pause a job at once; a resume continues from its last saved generation."""
    return _ask(submitter, job_id, Request.PAUSE)


@router.post("/{job_id}/resume", responses=_REQUESTED)
def resume(job_id: str, submitter: Submitter) -> JobBody:
    """Queue a paused or crashed job again, or take back a pause request.

    The job continues where it stopped.
    """
    return _ask(submitter, job_id, Request.RESUME)


@router.post("/{job_id}/stop", responses=_REQUESTED)
def stop(job_id: str, submitter: Submitter) -> JobBody:
    """Stop a job's search, then confirm, test and export its best models."""
    return _ask(submitter, job_id, Request.STOP)


@router.post("/{job_id}/cancel", responses=_REQUESTED)
def cancel(job_id: str, submitter: Submitter) -> JobBody:
    """Cancel a job; a running one ends within seconds."""
    return _ask(submitter, job_id, Request.CANCEL)


def check_priority(submitter: Caller, priority: int) -> None:
    """Keep submitters from overtaking each other."""
    if priority > 0 and submitter.principal.scope is not Scope.ADMIN:
        raise HTTPException(
            HTTPStatus.FORBIDDEN,
            f"a priority above 0 needs a key of scope admin; got {priority}; leave it out",
        )


def _listed(reader: Caller, job: Job) -> ListedJob:
    progress = reader.jobs.progress(job.id) if job.state.interruptible else None
    return ListedJob.of(
        reader.shown_job(replace(job, result=None)),
        outcome=None if job.result is None else Outcome.of(job.result),
        progress=None if progress is None else ProgressBody.of(progress),
    )


def _ask(submitter: Caller, job_id: str, request: Request) -> JobBody:
    job = submitter.application.controller.request(job_id, request, submitter.principal.sees)
    return JobBody.of(submitter.shown_job(job))
