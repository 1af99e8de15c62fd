"""Compression of the API's answers."""

from starlette.middleware.gzip import GZipMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

LEAST_BYTES = 1024
"""Smaller answers are sent as they are: they fit in a packet either way."""
LEVEL = 5


class Compression:
    """ASGI middleware that compresses answers to `GET` below `/v1`.

    Files of models have ranges and checksums, which are those of their own bytes: they and streams of events are left
    alone.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._compressing = GZipMiddleware(app, minimum_size=LEAST_BYTES, compresslevel=LEVEL)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        inside = self._compressing if _is_text(scope) else self._app
        await inside(scope, receive, send)


def _is_text(scope: Scope) -> bool:
    return (
        scope["type"] == "http"
        and scope["method"] == "GET"
        and scope["path"].startswith("/v1/")
        and "/artifacts/" not in scope["path"]
    )
