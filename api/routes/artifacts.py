"""The files of a job's exported model."""

from http import HTTPStatus

from fastapi import APIRouter
from fastapi.responses import FileResponse

from api.errors import responses
from api.routes.application import TheApplication
from api.schemas import ArtifactBody, ArtifactList
from service import artifacts

router = APIRouter(
    prefix="/jobs/{job_id}/artifacts", tags=["artifacts"], responses=responses(HTTPStatus.NOT_FOUND)
)


@router.get("")
def list_artifacts(job_id: str, application: TheApplication) -> ArtifactList:
    """List the files of the exported model; none until there is one."""
    directory = application.artifacts_dir(application.store.job(job_id).id)
    return ArtifactList(artifacts=[ArtifactBody(**artifact) for artifact in artifacts.list(directory)])


@router.get("/{name:path}", response_class=FileResponse)
def artifact(job_id: str, name: str, application: TheApplication) -> FileResponse:
    """Download one file; ranges are supported."""
    directory = application.artifacts_dir(application.store.job(job_id).id)
    path = artifacts.resolve(directory, name)
    return FileResponse(path, filename=path.name, headers={"X-Content-Type-Options": "nosniff"})
