"""Submission of jobs, and estimates of what they would need.

Both read files and tokenize, which may take minutes; they have threads of their own, so that nothing else waits.
"""

from functools import partial
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Header, Request, Response
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

router = APIRouter(tags=["jobs"], route_class=SpecRoute, responses=responses(HTTPStatus.FORBIDDEN))

IdempotencyKey = Annotated[str, StringConstraints(min_length=1, max_length=200)]

_AS_YAML: dict[str, Any] = {
    "requestBody": {"content": {YAML: {"schema": {"$ref": "#/components/schemas/JobSpec"}}}}
}


@router.post(
    "/jobs",
    openapi_extra=_AS_YAML,
    status_code=HTTPStatus.ACCEPTED,
    responses={
        202: {"description": "The job, queued.", "links": JOB_LINKS},
        **responses(HTTPStatus.CONFLICT),
    },
)
async def submit(
    spec: JobSpec,
    submitter: Submitter,
    request: Request,
    response: Response,
    idempotency_key: Annotated[
        IdempotencyKey | SkipJsonSchema[None],
        Header(
            description="Any name for this submission. A repeat with the same name and spec returns the same job."
        ),
    ] = None,
) -> JobBody:
    """Check a job file against the model and the data it names, and queue it.

    As YAML it may have 64 KiB, and errors come with their lines.
    """
    application, principal = submitter.application, submitter.principal
    check_priority(submitter, spec.priority)
    submitted = partial(application.submit, spec, principal.owner, idempotency_key, principal.sees)
    job = await request.app.state.places.run(request, principal.owner, submitted)
    response.headers["Location"] = f"/v1/jobs/{job.id}"
    return JobBody.of(submitter.shown_job(job))


@router.post("/estimates", openapi_extra=_AS_YAML)
async def estimate(spec: JobSpec, submitter: Submitter, request: Request) -> EstimateBody:
    """Check a job file as a submission does, and estimate what the job would need.

    Creates nothing.
    """
    application, principal = submitter.application, submitter.principal
    check_priority(submitter, spec.priority)
    estimated = partial(application.estimate, spec, principal.sees)
    return EstimateBody.model_validate(
        await request.app.state.places.run(request, principal.owner, estimated)
    )
