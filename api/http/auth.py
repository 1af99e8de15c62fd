"""Authentication: this machine's users, the server's key, or an API key.

A server without `RANKSIEVE_API_KEY` and without API keys listens on loopback only and behind no proxy; everyone who
reaches it there is its admin. Otherwise every `/v1` route needs a key as a bearer token: the server's own key, which
is the admin's, or a key of `ranksieve keys create`, for one owner and one scope.
"""

from http import HTTPStatus
from secrets import compare_digest
from typing import Annotated

from fastapi import Depends, HTTPException, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from ranksieve.api.http.hosts import is_loopback
from ranksieve.api.http.throttle import Throttle
from ranksieve.search.errors import InputError
from ranksieve.service.application import Application
from ranksieve.service.server.keys import Principal, id_of
from ranksieve.service.server.settings import Settings

BEARER = HTTPBearer(auto_error=False, description="RANKSIEVE_API_KEY of the server, or an API key.")

_WANTED = (
    "this server needs an API key as `Authorization: Bearer <key>`; the command line takes it as --api-key or "
    "RANKSIEVE_API_KEY"
)
_UNKNOWN = "unknown API key: it is mistyped, expired or revoked"


class Authenticate:
    """Dependency that sets `request.state.principal` and refuses invalid keys.

    `request.state.is_still_good` tells long answers whether the key is still valid.

    Args:
        application: Knows the keys.
        throttle: Counts the requests of every key, and of every address without a valid one.
    """

    def __init__(self, application: Application, throttle: Throttle) -> None:
        self._application = application
        self._throttle = throttle

    def __call__(
        self, request: Request, given: Annotated[HTTPAuthorizationCredentials | None, Depends(BEARER)]
    ) -> None:
        token = "" if given is None else given.credentials
        principal = self._principal(token)
        self._throttle.count(_caller(request, token, principal))
        if principal is None:
            raise HTTPException(
                HTTPStatus.UNAUTHORIZED,
                _UNKNOWN if token else _WANTED,
                headers={"WWW-Authenticate": "Bearer"},
            )
        request.state.principal = principal
        request.state.is_still_good = lambda: self._principal(token) == principal

    def _principal(self, token: str) -> Principal | None:
        settings, keys = self._application.settings, self._application.store.keys
        if settings.api_key and compare_digest(token.encode(), settings.api_key.get_secret_value().encode()):
            return Principal.admin()
        if is_loopback(settings.host) and not self._application.guarded():
            return Principal.admin()
        key = keys.find(token)
        return None if key is None else Principal(owner=key.owner, scope=key.scope)


def _caller(request: Request, token: str, principal: Principal | None) -> str:
    """Return the throttle's name of a request's caller: its valid key or its address."""
    if principal is not None and (id := id_of(token)) is not None:
        return f"key {id}"
    address = request.client.host if request.client is not None else ""
    return f"address {address}" if principal is None else f"{principal.owner} at {address}"


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
