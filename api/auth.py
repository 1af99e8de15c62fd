"""Who is asking: anyone on this machine, whoever holds the server's key, or the holder of an API key.

A server without `RANKSIEVE_API_KEY` and without API keys listens on loopback only, and whoever reaches it there
is its admin. Else every `/v1` route wants a key as a bearer token: the server's own, which is the admin's, or one
that `ranksieve keys create` made, for one owner and one scope.
"""

import ipaddress
from http import HTTPStatus
from secrets import compare_digest
from typing import Annotated

from fastapi import Depends, HTTPException, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from search.errors import InputError
from service.application import Application
from service.keys import Principal

_bearer = HTTPBearer(auto_error=False, description="RANKSIEVE_API_KEY of the server, or an API key.")


class Authenticate:
    """Dependency that tells who is asking, as `request.state.principal`, and refuses whoever shows no good key.

    Args:
        application: Knows the keys.
    """

    def __init__(self, application: Application) -> None:
        self._application = application

    def __call__(
        self, request: Request, given: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]
    ) -> None:
        principal = self._principal("" if given is None else given.credentials)
        if principal is None:
            raise HTTPException(
                HTTPStatus.UNAUTHORIZED,
                "this server wants an API key as `Authorization: Bearer <key>`",
                headers={"WWW-Authenticate": "Bearer"},
            )
        request.state.principal = principal

    def _principal(self, token: str) -> Principal | None:
        settings, keys = self._application.settings, self._application.store.keys
        if settings.api_key and compare_digest(token.encode(), settings.api_key.get_secret_value().encode()):
            return Principal.admin()
        if is_loopback(settings.host) and not self._application.guarded():
            return Principal.admin()
        key = keys.find(token)
        return None if key is None else Principal(owner=key.owner, scope=key.scope)


def is_loopback(host: str) -> bool:
    """Whether `host`, a name or an address, is reachable from this machine only."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def refuse_open_network(host: str, *, guarded: bool) -> None:
    """Refuse to serve a network without a key.

    Raises:
        InputError: `host` is not a loopback address and there is no key.
    """
    if not guarded and not is_loopback(host):
        raise InputError(
            "host",
            f"{host} is not a loopback address; set RANKSIEVE_API_KEY or run `ranksieve keys create` first",
        )
