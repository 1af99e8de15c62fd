"""HTTP POST to a URL of a user, over a connection to a checked address.

The name is resolved once, the addresses are checked, and one of them is connected to, so a second look-up cannot
return another address. Certificates are checked against the name. Redirects are not followed, no proxy is used, only
the status of the answer is read, and each attempt has one deadline.
"""

import socket
import ssl
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, Protocol

import httpcore2

from ranksieve.search.errors import InputError
from ranksieve.service.webhooks.outcomes import Outcome
from ranksieve.service.webhooks.targets import Target, target_of

TIMEOUT_S = 10.0
"""Longest duration of an attempt, besides the name look-up, in seconds."""

_CHUNK_BYTES = 16 * 1024
_LONGEST_REASON = 200

Resolve = Callable[[str, int], Sequence[str]]
"""Look-up of the addresses of a name, for a port; raises OSError."""


class Post(Protocol):
    """Makes one attempt to deliver."""

    def __call__(self, url: str, headers: Mapping[str, str], body: bytes) -> Outcome:
        """Post a message; return the outcome. Never raises for the other side."""


def resolve(name: str, port: int) -> Sequence[str]:
    """Return the addresses of a name, from the system."""
    found = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class HttpPost:
    """Makes attempts over the network.

    Args:
        trusted: Names that may lead to any address; see `service.webhooks.targets`.
        timeout_s: Longest duration of an attempt, in seconds.
        resolve: Looks names up.
        tls: Checks certificates; None: by those that the system trusts.
    """

    def __init__(
        self,
        trusted: Sequence[str] = (),
        timeout_s: float = TIMEOUT_S,
        resolve: Resolve = resolve,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._trusted = tuple(trusted)
        self._timeout_s = timeout_s
        self._resolve = resolve
        self._given_tls = tls

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        return self._given_tls or httpcore2.default_ssl_context()

    def __call__(self, url: str, headers: Mapping[str, str], body: bytes) -> Outcome:
        """Post a message; return the outcome. Never raises for the other side."""
        try:
            target = target_of(url, self._trusted)
        except InputError as error:  # the operator's settings changed, or differ between servers
            return Outcome(error=str(error))
        network = _Network(target, self._resolve, _Deadline(self._timeout_s))
        try:
            return Outcome.answered(self._status(target, network, headers, body))
        except _RefusedError:
            return Outcome(error=f"{target.host} resolves to no address that a webhook may lead to")
        except httpcore2.TimeoutException:
            return Outcome(error=f"no answer within {self._timeout_s:g} s")
        except httpcore2.ConnectError as error:
            return Outcome(error=f"cannot connect: {error}"[:_LONGEST_REASON])
        except httpcore2.NetworkError:
            return Outcome(error="the connection broke before the answer")
        except httpcore2.ProtocolError:
            return Outcome(error="the answer is not HTTP")

    def _status(self, target: Target, network: "_Network", headers: Mapping[str, str], body: bytes) -> int:
        url = httpcore2.URL(
            scheme=target.scheme.encode(),
            host=target.host.encode(),
            port=target.port,
            target=target.path.encode(),
        )
        named = {"host": target.authority, "content-length": str(len(body)), **headers}
        lines = [(name.encode(), value.encode()) for name, value in named.items()]
        with (
            httpcore2.ConnectionPool(ssl_context=self._tls, network_backend=network) as pool,
            pool.stream("POST", url, headers=lines, content=body) as response,
        ):
            return response.status


class _RefusedError(Exception):
    """The name resolves to no allowed address."""


class _Deadline:
    def __init__(self, timeout_s: float) -> None:
        self._end_s = time.monotonic() + timeout_s

    def left_s(self) -> float:
        left_s = self._end_s - time.monotonic()
        if left_s <= 0:
            raise httpcore2.ReadTimeout("the deadline is over")
        return left_s


class _Network(httpcore2.SyncBackend):
    """Network that connects to addresses of one target only."""

    def __init__(self, target: Target, resolve: Resolve, deadline: _Deadline) -> None:
        self._target = target
        self._resolve = resolve
        self._deadline = deadline

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.NetworkStream:
        failure: httpcore2.NetworkError | httpcore2.TimeoutException | None = None
        addresses = self._addresses(host, port)
        for tried, address in enumerate(addresses):
            part_s = self._deadline.left_s() / (len(addresses) - tried)  # one may never answer
            try:
                stream = super().connect_tcp(address, port, part_s, local_address, socket_options)
                return _Stream(stream, self._deadline)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                failure = error
        raise failure or _RefusedError

    def _addresses(self, host: str, port: int) -> list[str]:
        try:
            found = self._resolve(host, port)
        except (OSError, UnicodeError) as error:
            raise httpcore2.ConnectError(f"{host} cannot be looked up") from error
        return [address for address in found if self._target.may_be_at(address)]


class _Stream(httpcore2.NetworkStream):
    """Stream whose reads and writes share one deadline, against slow trickles."""

    def __init__(self, inner: httpcore2.NetworkStream, deadline: _Deadline) -> None:
        self._inner = inner
        self._deadline = deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._inner.read(max_bytes, self._deadline.left_s())

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        for start in range(0, len(buffer), _CHUNK_BYTES):
            self._inner.write(buffer[start : start + _CHUNK_BYTES], self._deadline.left_s())

    def close(self) -> None:
        self._inner.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.NetworkStream:
        secured = self._inner.start_tls(ssl_context, server_hostname, self._deadline.left_s())
        return _Stream(secured, self._deadline)

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)
