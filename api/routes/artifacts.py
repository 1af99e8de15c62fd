"""The files of a job's exported model."""

from http import HTTPStatus

from fastapi import APIRouter
from fastapi.responses import FileResponse

from api.errors import responses
from api.routes.caller import Reader
from api.schemas import ArtifactBody, ArtifactList
from service import artifacts

router = APIRouter(
    prefix="/jobs/{job_id}/artifacts", tags=["artifacts"], responses=responses(HTTPStatus.NOT_FOUND)
)


@router.get("")
def list_artifacts(job_id: str, reader: Reader) -> ArtifactList:
    """List the files of the exported model; none until there is one."""
    directory = reader.application.artifacts_dir(reader.jobs.job(job_id).id)
    return ArtifactList(artifacts=[ArtifactBody(**artifact) for artifact in artifacts.list(directory)])


@router.get("/{name:path}", response_class=FileResponse)
def artifact(job_id: str, name: str, reader: Reader) -> FileResponse:
    """Download one file; ranges are supported."""
    directory = reader.application.artifacts_dir(reader.jobs.job(job_id).id)
    path = artifacts.resolve(directory, name)
    return FileResponse(path, filename=path.name, headers={"X-Content-Type-Options": "nosniff"})
