"""Files of a job's exported model."""

from http import HTTPStatus

from fastapi import APIRouter, Response
from fastapi.responses import FileResponse

from ranksieve.api.http.errors import responses
from ranksieve.api.http.routes.caller import Reader
from ranksieve.api.http.routes.etags import IfNoneMatch, is_held
from ranksieve.api.http.routes.links import ARTIFACT_LINKS
from ranksieve.api.http.schemas.jobs import ArtifactBody, ArtifactList
from ranksieve.search.errors import NotFoundError
from ranksieve.service.job.job import Job, JobState
from ranksieve.service.server import artifacts

FILE: dict[str, dict[str, object]] = {
    "application/octet-stream": {"schema": {"type": "string", "format": "binary"}}
}

router = APIRouter(
    prefix="/jobs/{job_id}/artifacts", tags=["artifacts"], responses=responses(HTTPStatus.NOT_FOUND)
)


@router.head("", include_in_schema=False)
@router.get("", responses={200: {"links": ARTIFACT_LINKS}})
def list_artifacts(job_id: str, reader: Reader) -> ArtifactList:
    """List the files of the exported model; empty before the job has succeeded."""
    job = reader.jobs.job(job_id)
    found = artifacts.list(reader.application.artifacts_dir(job.id)) if _has_model(job) else ()
    return ArtifactList(artifacts=[ArtifactBody(**artifact) for artifact in found])


@router.head("/{name:path}", include_in_schema=False)  # size and ETag only
@router.get(
    "/{name:path}",
    response_class=FileResponse,
    responses={
        200: {"description": "The file.", "content": FILE},
        206: {"description": "The requested `Range` of the file.", "content": FILE},
        304: {"description": "Not modified."},
        **responses(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE),
    },
)
def artifact(job_id: str, name: str, reader: Reader, if_none_match: IfNoneMatch = None) -> Response:
    """Download one file, or a `Range` of it; its `ETag` is its SHA-256."""
    job = reader.jobs.job(job_id)
    if not _has_model(job):
        raise NotFoundError(f"job {job.id} is {job.state}; it has no exported model")
    path = artifacts.resolve(reader.application.artifacts_dir(job.id), name)
    headers = {"ETag": f'"{artifacts.sha256(path)}"', "X-Content-Type-Options": "nosniff"}
    if is_held(headers["ETag"], if_none_match):
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
    return FileResponse(path, filename=path.name, headers=headers)


def _has_model(job: Job) -> bool:
    """Return whether a job's folder holds a verified model."""
    return job.state is JobState.SUCCEEDED
