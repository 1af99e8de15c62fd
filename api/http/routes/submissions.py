"""Submission of jobs, and its dry run.

Both read files and tokenize, which may take minutes; they have threads of their own, so that nothing else waits.
"""

from functools import partial
from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import JSONResponse
from pydantic import StringConstraints
from pydantic.json_schema import SkipJsonSchema

from ranksieve.api.http.errors import responses
from ranksieve.api.http.requests.spec_bodies import YAML, SpecRoute
from ranksieve.api.http.routes.caller import Submitter
from ranksieve.api.http.routes.jobs import check_priority
from ranksieve.api.http.routes.links import JOB_LINKS
from ranksieve.api.http.schemas.estimate import EstimateBody
from ranksieve.api.http.schemas.jobs import JobBody
from ranksieve.service.spec import JobSpec

router = APIRouter(prefix="/jobs", tags=["jobs"], route_class=SpecRoute)

IdempotencyKey = Annotated[str, StringConstraints(min_length=1, max_length=200)]


@router.post(
    "",
    openapi_extra={"requestBody": {"content": {YAML: {"schema": {"$ref": "#/components/schemas/JobSpec"}}}}},
    status_code=HTTPStatus.ACCEPTED,
    response_model=JobBody,
    responses={
        202: {"description": "The job, queued.", "links": JOB_LINKS},
        200: {"model": EstimateBody, "description": "The estimate of a dry run."},
        **responses(HTTPStatus.FORBIDDEN, HTTPStatus.CONFLICT),
    },
)
async def submit(
    spec: JobSpec,
    submitter: Submitter,
    request: Request,
    response: Response,
    dry_run: Annotated[
        bool, Query(description="Check the job file and estimate what the job would need; create nothing.")
    ] = False,
    idempotency_key: Annotated[
        IdempotencyKey | SkipJsonSchema[None],
        Header(
            description="Any name for this submission. A repeat with the same name and spec returns the same job."
        ),
    ] = None,
) -> JobBody | JSONResponse:
    """Check a job file against the model and the data it names, and queue it.

    As YAML it may have 64 KiB, and errors come with their lines.
    """
    application, principal = submitter.application, submitter.principal
    check_priority(submitter, spec.priority)
    checked = partial(request.app.state.places.run, request, principal.owner)
    if dry_run:
        estimate = await checked(partial(application.estimate, spec, principal.sees))
        return JSONResponse(EstimateBody.model_validate(estimate).model_dump(mode="json"))
    job = await checked(partial(application.submit, spec, principal.owner, idempotency_key, principal.sees))
    response.headers["Location"] = f"/v1/jobs/{job.id}"
    return JobBody.of(submitter.shown_job(job))
