"""Exports of a succeeded job: more sizes or candidates, without another search."""

from http import HTTPStatus

from fastapi import APIRouter, Response

from ranksieve.api.http.errors import responses
from ranksieve.api.http.requests.json_bodies import JsonRoute
from ranksieve.api.http.routes.caller import Reader, Submitter
from ranksieve.api.http.schemas.jobs import ExportBody, ExportList, ExportRequest

router = APIRouter(
    prefix="/jobs/{job_id}/exports",
    tags=["exports"],
    responses=responses(HTTPStatus.NOT_FOUND),
    route_class=JsonRoute,
)


@router.post(
    "", status_code=HTTPStatus.ACCEPTED, responses=responses(HTTPStatus.FORBIDDEN, HTTPStatus.CONFLICT)
)
def export(job_id: str, wanted: ExportRequest, submitter: Submitter, response: Response) -> ExportBody:
    """Queue the export of a candidate, or return the export that exists already."""
    queued = submitter.application.export(
        job_id, submitter.principal.sees, share=wanted.share, candidate=wanted.candidate
    )
    response.headers["Location"] = f"/v1/jobs/{queued.id}"
    return ExportBody.of(submitter.shown_job(queued))


@router.get("")
def list_exports(job_id: str, reader: Reader) -> ExportList:
    """List a job's exports, newest first.

    The events and artifacts of an export are those of the job with its id.
    """
    return ExportList(exports=[ExportBody.of(reader.shown_job(one)) for one in reader.jobs.exports(job_id)])
