"""Whether the server runs jobs."""

from http import HTTPStatus

from fastapi import APIRouter, Response

from api.routes.application import TheApplication
from api.schemas import Health
from api.version import installed_version

router = APIRouter(tags=["health"])


@router.get("/healthz", responses={503: {"model": Health, "description": "No job will run until a restart."}})
def healthz(application: TheApplication, response: Response) -> Health:
    """Answer 200 while the server runs jobs, else 503. Needs no key."""
    healthy = bool(application.health()["healthy"])
    if not healthy:
        response.status_code = HTTPStatus.SERVICE_UNAVAILABLE
    return Health(status="ok" if healthy else "unhealthy", version=installed_version())
