"""Who may use the API: anyone on this machine, or whoever holds the key.

Without a key the server listens on loopback only. With one, every `/v1` route wants it as a bearer token.
"""

import ipaddress
from http import HTTPStatus
from secrets import compare_digest
from typing import Annotated

from fastapi import Depends, HTTPException
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import SecretStr

from search.errors import InputError

_bearer = HTTPBearer(auto_error=False, description="The server's RANKSIEVE_API_KEY, where it has one.")


class RequireKey:
    """Dependency that refuses requests without the right key.

    Args:
        key: The key, or `None` for a server that is open to its own machine.
    """

    def __init__(self, key: SecretStr | None) -> None:
        self._key = key

    async def __call__(self, given: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]) -> None:
        if not self._key:  # an empty key is no key
            return
        offered = given.credentials if given is not None else ""
        if not compare_digest(offered.encode(), self._key.get_secret_value().encode()):
            raise HTTPException(
                HTTPStatus.UNAUTHORIZED,
                "this server wants its API key as `Authorization: Bearer <key>`",
                headers={"WWW-Authenticate": "Bearer"},
            )


def is_loopback(host: str) -> bool:
    """Whether `host`, a name or an address, is reachable from this machine only."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def refuse_open_network(host: str, key: SecretStr | None) -> None:
    """Refuse to serve a network without a key.

    Raises:
        InputError: `host` is not a loopback address and there is no key.
    """
    if not key and not is_loopback(host):
        raise InputError("host", f"{host} is not a loopback address; set RANKSIEVE_API_KEY before serving it")
