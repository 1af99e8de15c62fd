"""Health, readiness and metrics of the server.

HEAD requests, as of `curl -I` and many probes, get status and headers only.
"""

from http import HTTPStatus

from fastapi import APIRouter, Request, Response
from fastapi.responses import PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST

from ranksieve.api.http.errors import responses
from ranksieve.api.http.routes.application import TheApplication
from ranksieve.api.http.routes.caller import Admin
from ranksieve.api.http.schemas.server import Health, Readiness

router = APIRouter(tags=["health"])


@router.head("/healthz", include_in_schema=False)
@router.get("/healthz", responses={503: {"model": Health, "description": "No job will run until a restart."}})
async def healthz(application: TheApplication, request: Request, response: Response) -> Health:
    """Answer 200 while the server runs jobs, else 503. Needs no key."""
    healthy = bool(application.health()["healthy"])
    if not healthy:
        response.status_code = HTTPStatus.SERVICE_UNAVAILABLE
    return Health(status="ok" if healthy else "unhealthy", version=request.app.version)


@router.head("/readyz", include_in_schema=False)
@router.get("/readyz", responses={503: {"model": Readiness, "description": "Send no requests here for now."}})
def readyz(application: TheApplication, response: Response) -> Readiness:
    """Answer 200 while the job store and Ray work and jobs are run, else 503.

    Needs no key, starts nothing.
    """
    works = application.readiness()
    ready = False not in works.values()
    if not ready:
        response.status_code = HTTPStatus.SERVICE_UNAVAILABLE
    return Readiness.model_validate({"ready": ready, **works, "lacks": application.ray_lacks()})


_REFUSED = responses(
    HTTPStatus.UNAUTHORIZED,
    HTTPStatus.FORBIDDEN,
    HTTPStatus.TOO_MANY_REQUESTS,
    HTTPStatus.SERVICE_UNAVAILABLE,
)

guarded = APIRouter(tags=["health"], responses=_REFUSED)


@guarded.head("/metrics", include_in_schema=False)
@guarded.get("/metrics", response_class=PlainTextResponse)
def metrics(admin: Admin) -> Response:
    """Show the metrics in Prometheus' text format; needs the admin's key, if any."""
    return Response(admin.application.metrics.text(), media_type=CONTENT_TYPE_LATEST)
