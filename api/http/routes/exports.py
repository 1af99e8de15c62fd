"""More models of a job that has succeeded: any size, or any candidate, without another search."""

from http import HTTPStatus

from fastapi import APIRouter, Response

from ranksieve.api.http.errors import responses
from ranksieve.api.http.routes.caller import Reader, Submitter
from ranksieve.api.http.schemas.jobs import ExportBody, ExportList, ExportRequest

router = APIRouter(
    prefix="/jobs/{job_id}/exports", tags=["exports"], responses=responses(HTTPStatus.NOT_FOUND)
)


@router.post(
    "", status_code=HTTPStatus.ACCEPTED, responses=responses(HTTPStatus.FORBIDDEN, HTTPStatus.CONFLICT)
)
def export(job_id: str, wanted: ExportRequest, submitter: Submitter, response: Response) -> ExportBody:
    """Queue the export of a candidate, or answer the one that there is already."""
    made = submitter.application.export(
        job_id, submitter.principal.sees, share=wanted.share, candidate=wanted.candidate
    )
    response.headers["Location"] = f"/v1/jobs/{made.id}"
    return ExportBody.of(made)


@router.get("")
def list_exports(job_id: str, reader: Reader) -> ExportList:
    """List a job's exports, newest first. Events and artifacts of one are those of the job with its id."""
    return ExportList(exports=[ExportBody.of(one) for one in reader.jobs.exports(job_id)])
