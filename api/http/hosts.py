"""Names that a server answers to, and origins that may change something on it.

A web page cannot choose its browser's `Host` and `Origin` headers. DNS rebinding, where a page's own name leads to
this machine, shows in `Host`. A form sent to another site than the page's own shows in `Origin`.
"""

import ipaddress
from collections.abc import Sequence
from fnmatch import fnmatchcase
from http import HTTPStatus
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

_LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})


def is_loopback(host: str) -> bool:
    """Return whether `host`, a name or an address, is reachable only locally."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def trusted_names(host: str, allowed: Sequence[str]) -> list[str]:
    """Return the names that a request may call the server by.

    On a network without configured names that is any name, `*`: a rebound page has no key, and nothing is served
    without one.

    Args:
        host: Where the server listens.
        allowed: Configured names, `*.example.com` for all below one.
    """
    if not is_loopback(host):
        return [*_LOOPBACK_NAMES, *allowed] if allowed else ["*"]
    return [*_LOOPBACK_NAMES, f"[{host}]" if ":" in host else host, *allowed]


class OwnPages:
    """ASGI middleware that answers 403 to unsafe methods from pages of other origins.

    Args:
        app: The application inside.
        allowed: Names of own pages that differ from `Host`, such as a proxy's.
    """

    def __init__(self, app: ASGIApp, allowed: Sequence[str]) -> None:
        self._app = app
        self._allowed = tuple(allowed)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve or refuse one request."""
        if scope["type"] == "http" and scope["method"] not in _SAFE_METHODS and self._is_foreign(scope):
            refusal = PlainTextResponse("foreign origin", status_code=HTTPStatus.FORBIDDEN)
            await refusal(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _is_foreign(self, scope: Scope) -> bool:
        headers = Headers(scope=scope)
        host = headers.get("host", "").lower()
        return not all(self._is_own(origin.lower(), host) for origin in headers.getlist("origin"))

    def _is_own(self, origin: str, host: str) -> bool:
        """Return whether an origin, `scheme://name:port` or `null`, is the server's own."""
        try:
            url = urlsplit(origin)
            name = url.hostname or ""
        except ValueError:
            return False
        return url.netloc == host != "" or any(fnmatchcase(name, pattern) for pattern in self._allowed)
