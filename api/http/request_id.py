"""Frame around every request: an id, and problem documents for early refusals.

The id is the caller's `X-Request-ID` if that is a plain one, else a new one. It is in every answer's header, in every
problem document and in the log of a failure. Middleware refuses in plain text (a foreign host, a huge body); the frame
turns that into a problem document.
"""

import re
import secrets
from collections.abc import Callable, MutableMapping
from http import HTTPStatus
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ranksieve.service.server.logs import about

HEADER = "X-Request-ID"
RANGE = "Content-Range"
"""Header of a range that cannot be served; it has the length of the file."""
_PLAIN = re.compile(r"[A-Za-z0-9._-]{1,64}")


def request_id(scope: MutableMapping[str, Any]) -> str:
    """Return the id of a request."""
    offered = Headers(scope=scope).get(HEADER, "")
    chosen = offered if _PLAIN.fullmatch(offered) else secrets.token_hex(8)
    id: str = scope.setdefault("state", {}).setdefault("request_id", chosen)
    return id


class Requests:
    """Outermost ASGI middleware.

    Args:
        app: The application inside.
        refuse: Makes the answer to a request that was refused with a status.
    """

    def __init__(self, app: ASGIApp, refuse: Callable[[Request, HTTPStatus], Response]) -> None:
        self._app = app
        self._refuse = refuse

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        id, replaced = request_id(scope), False

        async def send_named(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[HEADER] = id
            await send(message)

        async def send_problem(message: Message) -> None:
            nonlocal replaced
            if replaced:
                return  # the rest of the plain text
            if message["type"] == "http.response.start" and _is_plain_refusal(message):
                replaced = True
                refusal = self._refuse(Request(scope), HTTPStatus(message["status"]))
                if size := Headers(raw=message["headers"]).get(RANGE):
                    refusal.headers[RANGE] = size
                await refusal(scope, receive, send_named)
            else:
                await send_named(message)

        with about(request=id):
            await self._app(scope, receive, send_problem)


def _is_plain_refusal(message: Message) -> bool:
    kind = Headers(raw=message["headers"]).get("content-type", "")
    return message["status"] >= HTTPStatus.BAD_REQUEST and kind.startswith("text/plain")
