"""Authentication: this machine's users, the server's key, or an API key.

A server without `RANKSIEVE_API_KEY` and without API keys listens on loopback only and behind no proxy; everyone who
reaches it there is its admin. Otherwise every `/v1` route needs a key as a bearer token: the server's own key, which
is the admin's, or a key of `ranksieve keys create`, for one owner and one scope.
"""

from contextlib import ExitStack
from http import HTTPStatus
from secrets import compare_digest
from typing import Annotated

from fastapi import Depends, HTTPException, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.security import HTTPBearer
from starlette.types import ASGIApp, Receive, Scope, Send

from ranksieve.api.http import errors
from ranksieve.api.http.hosts import is_loopback
from ranksieve.api.http.throttle import OpenRequests, Throttle
from ranksieve.search.errors import InputError, RanksieveError
from ranksieve.service.application import Application
from ranksieve.service.server.keys import Principal, id_of
from ranksieve.service.server.settings import Settings

BEARER = HTTPBearer(auto_error=False, description="RANKSIEVE_API_KEY of the server, or an API key.")

_WANTED = (
    "this server needs an API key as `Authorization: Bearer <key>`; the command line takes it as --api-key or "
    "RANKSIEVE_API_KEY"
)
_UNKNOWN = "unknown API key: it is mistyped, expired or revoked"


class Gate:
    """ASGI middleware that checks the key before anything of a body is read.

    Sets `request.state.principal`, and `request.state.caller`, the throttle's name of the caller.
    `request.state.is_still_good` tells long answers whether the key is still valid.

    Args:
        app: The application inside.
        application: Knows the keys.
        throttle: Counts the requests of every key, and of every address without a valid one.
        open_requests: Counts those that are open.
    """

    def __init__(
        self, app: ASGIApp, application: Application, throttle: Throttle, open_requests: OpenRequests
    ) -> None:
        self._app = app
        self._application = application
        self._throttle = throttle
        self._open = open_requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve or refuse one request."""
        with ExitStack() as counted:
            if scope["type"] == "http" and _needs_key(scope["path"]):
                request = Request(scope)
                try:
                    await run_in_threadpool(self._admit, request)
                    counted.enter_context(self._open.count(request.state.caller))
                except (HTTPException, RanksieveError) as error:
                    refusal = await errors.answer(request, error)
                    await refusal(scope, receive, send)
                    return
            await self._app(scope, receive, send)

    def _admit(self, request: Request) -> None:
        kind, _, token = request.headers.get("Authorization", "").partition(" ")
        token = token.strip() if kind.lower() == "bearer" else ""
        principal = self._principal(token)
        caller = _caller(request, token, principal)
        self._throttle.count(caller)
        if principal is None:
            raise HTTPException(
                HTTPStatus.UNAUTHORIZED,
                _UNKNOWN if token else _WANTED,
                headers={"WWW-Authenticate": "Bearer"},
            )
        request.state.principal, request.state.caller = principal, caller
        request.state.is_still_good = lambda: self._principal(token) == principal

    def _principal(self, token: str) -> Principal | None:
        settings, keys = self._application.settings, self._application.store.keys
        if settings.api_key and compare_digest(token.encode(), settings.api_key.get_secret_value().encode()):
            return Principal.admin()
        if is_loopback(settings.host) and not self._application.guarded():
            return Principal.admin()
        key = keys.find(token)
        return None if key is None else Principal(owner=key.owner, scope=key.scope)


def admitted(request: Request, _: Annotated[object, Depends(BEARER)]) -> None:
    """Fail where the gate was left out; in the document, the need of a key."""
    assert isinstance(request.state.principal, Principal)


def _needs_key(path: str) -> bool:
    return path in ("/v1", "/metrics") or path.startswith("/v1/")


def _caller(request: Request, token: str, principal: Principal | None) -> str:
    """Return the throttle's name of a request's caller: its valid key or its address."""
    if principal is not None and (id := id_of(token)) is not None:
        return f"key {id}"
    address = f"address {request.client.host if request.client is not None else ''}"
    return address if principal is None else f"{principal.owner} at {address}"


def refuse_open_network(settings: Settings, *, guarded: bool) -> None:
    """Refuse to serve other machines without a key.

    Raises:
        InputError: There is no key, and `host` is not a loopback address, or a proxy is expected in front, whose
            callers would all look like this machine.
    """
    if guarded:
        return
    remedy = "set RANKSIEVE_API_KEY or run `ranksieve keys create` first"
    if not is_loopback(settings.host):
        raise InputError("host", f"{settings.host} is not a loopback address; {remedy}")
    for name in ("allowed_hosts", "trusted_proxies"):
        if getattr(settings, name):
            raise InputError(name, f"is for a proxy, behind which everybody would be the admin; {remedy}")
