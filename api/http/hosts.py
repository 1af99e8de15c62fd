"""Which names a server answers to, and whose pages may change something on it.

A web page cannot choose what its browser writes into `Host` and `Origin`. A page that has its own name lead to this
machine (DNS rebinding) shows in the first; one that sends a form to another site than its own shows in the second.
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
    """Whether `host`, a name or an address, is reachable from this machine only."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def trusted_names(host: str, allowed: Sequence[str]) -> list[str]:
    """The names that a request may call the server by.

    On a network without configured names that is any, `*`: a rebound page has no key to show there, and
    nothing is to be had without one.

    Args:
        host: Where the server listens.
        allowed: Configured names, `*.example.com` for all below one.
    """
    if not is_loopback(host):
        return [*_LOOPBACK_NAMES, *allowed] if allowed else ["*"]
    return [*_LOOPBACK_NAMES, f"[{host}]" if ":" in host else host, *allowed]


class OwnPages:
    """ASGI middleware that lets no page of another origin change anything: unsafe methods with its `Origin` get 403.

    Args:
        app: What is inside.
        allowed: Names of pages that are the server's own, though they do not show in `Host`: those of a proxy.
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
        """Whether an origin, `scheme://name:port` or `null`, is the server's: its own name, or an allowed one."""
        try:
            url = urlsplit(origin)
            name = url.hostname or ""
        except ValueError:
            return False
        return url.netloc == host != "" or any(fnmatchcase(name, pattern) for pattern in self._allowed)
