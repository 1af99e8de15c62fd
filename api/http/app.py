"""HTTP application: routes, errors, authentication, and the service's lifespan."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from http import HTTPStatus
from typing import Any

from anyio import CapacityLimiter
from fastapi import APIRouter, Depends, FastAPI
from fastapi.concurrency import run_in_threadpool
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.types import Receive, Scope, Send

from ranksieve.api import page
from ranksieve.api.http import docs, errors
from ranksieve.api.http.auth import Gate, admitted
from ranksieve.api.http.compression import Compression
from ranksieve.api.http.hosts import OwnPages, trusted_names
from ranksieve.api.http.openapi import documented
from ranksieve.api.http.places import Places
from ranksieve.api.http.request_id import Requests
from ranksieve.api.http.requests.json_bodies import PARSERS
from ranksieve.api.http.requests.strict_requests import refuse_ignored
from ranksieve.api.http.routes import (
    artifacts,
    capabilities,
    events,
    exports,
    health,
    jobs,
    keys,
    models,
    ranks,
    search,
    submissions,
    webhooks,
)
from ranksieve.api.http.schemas.common import MAX_BODY_BYTES
from ranksieve.api.http.throttle import OpenRequests, Throttle, connections_of_one
from ranksieve.service.application import Application
from ranksieve.service.server.capabilities import version_of
from ranksieve.service.server.settings import Settings

_TAGS = [
    {"name": "jobs", "description": "Submit, list, look at, pause, stop and cancel pruning jobs."},
    {"name": "events", "description": "Events of a job, as pages or as a stream."},
    {"name": "search", "description": "The generations and candidates of a job's search."},
    {"name": "artifacts", "description": "The files of the exported model."},
    {"name": "exports", "description": "More models of a finished job, without another search."},
    {"name": "webhooks", "description": "URLs that are notified of jobs, with signatures."},
    {"name": "keys", "description": "API keys and their scopes."},
    {"name": "capabilities", "description": "What this server can do, with which models and tasks."},
    {"name": "health", "description": "Whether the server runs jobs."},
]


class _App(FastAPI):
    def openapi(self) -> dict[str, Any]:
        return openapi_document()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Outside the middleware stack: OpenTelemetry would put its own middleware around anything inside it.
        await Requests(super().__call__, errors.refuse)(scope, receive, send)


def create_app(application: Application, *, started: bool = False) -> FastAPI:
    """Build the HTTP application around the service.

    Args:
        application: The service. The app's lifespan starts and stops it.
        started: Whether the caller has started `application`, to see its errors; then the lifespan only stops it.

    Returns:
        The app; `app.state.streams` can end the event streams that clients hold open.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        if not started:
            await run_in_threadpool(application.start)
        try:
            yield
        finally:
            await run_in_threadpool(application.stop)

    app = _bare(lifespan=lifespan)
    app.state.application = application
    app.state.streams = events.OpenStreams()
    app.state.places = Places()
    app.state.parsers = CapacityLimiter(PARSERS)
    errors.install(app)
    settings = application.settings
    app.add_middleware(Compression)
    app.add_middleware(
        Gate,
        application=application,
        throttle=Throttle(settings.requests_per_second),
        open_requests=OpenRequests(connections_of_one(settings.connections)),
    )
    _keep_foreign_pages_out(app, settings)
    _add_routes(app)
    docs.add_pages(app)
    page.add_page(app)
    return app


@cache
def openapi_document() -> dict[str, Any]:
    """Return the OpenAPI document of every server, made once in a process."""
    app = _bare()
    _add_routes(app)
    return documented(FastAPI.openapi(app))


def _bare(**options: Any) -> _App:
    return _App(
        title="ranksieve",
        summary="How small can a language model be and still do your task?",
        version=version_of("ranksieve"),
        openapi_tags=_TAGS,
        servers=[{"url": "."}],  # where the document is: below the path under which a proxy serves it, too
        docs_url=None,
        redoc_url=None,
        separate_input_output_schemas=False,
        generate_unique_id_function=lambda route: route.name,
        max_body_size=MAX_BODY_BYTES,
        **options,
    )


def _add_routes(app: FastAPI) -> None:
    app.include_router(health.router)
    app.include_router(health.guarded, dependencies=[Depends(admitted)])
    app.include_router(_v1())
    app.webhooks.include_router(webhooks.sent)


def _v1() -> APIRouter:
    refused = errors.responses(
        HTTPStatus.BAD_REQUEST,
        HTTPStatus.UNAUTHORIZED,
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        HTTPStatus.UNPROCESSABLE_ENTITY,
        HTTPStatus.TOO_MANY_REQUESTS,
        HTTPStatus.SERVICE_UNAVAILABLE,
    )
    router = APIRouter(
        prefix="/v1", dependencies=[Depends(admitted), Depends(refuse_ignored)], responses=refused
    )
    modules = (
        submissions, jobs, events, search, ranks, artifacts, exports, webhooks, keys, capabilities, models,
    )  # fmt: skip
    for module in modules:
        router.include_router(module.router)
    router.include_router(keys.own)
    return router


def _keep_foreign_pages_out(app: FastAPI, settings: Settings) -> None:
    app.add_middleware(OwnPages, allowed=settings.allowed_hosts)
    names = trusted_names(settings.host, settings.allowed_hosts)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=names, www_redirect=False)
