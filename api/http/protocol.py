"""HTTP protocol with limits on connections and on the time of a request.

What is malformed or too much is refused with a problem document. Who is too slow is cut off without one: nobody may be
there to read it.
"""

import asyncio
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from ipaddress import ip_address, ip_network
from types import MappingProxyType
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from ranksieve.api.http.errors import refuse_connection
from ranksieve.api.http.throttle import connections_of_one

HEAD_S = 10.0
"""Seconds in which a request's head has to arrive, from the connection or the last answer on."""
BODY_S = 60.0
"""Seconds in which a request's body has to arrive, from its head on."""
STALL_S = 300.0
"""Seconds that a reader may take nothing of an answer that waits for it."""
RETRY_S = 5
"""Seconds after which a client refused for too many connections may try again."""


class Config(uvicorn.Config):
    """Uvicorn's configuration of a server with `Protocol`.

    Args:
        app: The application.
        connections: Most connections at once.
        trusted_proxies: Addresses and networks trusted to name the client of a request. Behind one are many clients, so
            it may hold all connections.
        options: Uvicorn's own options.
    """

    def __init__(self, app: Any, *, connections: int, trusted_proxies: Sequence[str], **options: Any) -> None:
        super().__init__(
            app,
            http=Protocol,
            ws="none",  # it would take connections over, out of reach of the limits
            proxy_headers=bool(trusted_proxies),
            forwarded_allow_ips=list(trusted_proxies),
            **options,
        )
        self.connections = connections
        self._proxies = [ip_network(proxy) for proxy in trusted_proxies]

    def connections_of(self, host: str) -> int:
        """Return how many connections one address may have."""
        address = ip_address(host)
        trusted = any(address in network for network in self._proxies)
        return self.connections if trusted else connections_of_one(self.connections)


class Protocol(H11Protocol):
    """Uvicorn's protocol with limits, whose refusals are problem documents.

    The application never sees a refused connection or request.
    """

    config: Config

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._awaited: type[h11.IDLE] | type[h11.SEND_BODY] | None = None
        self._late: asyncio.TimerHandle | None = None
        self._stalled: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Accept a connection, or refuse it where there are too many."""
        super().connection_made(transport)
        if (crowded := self._crowded()) is None:
            self._set_timer()
            return
        status, where = crowded
        detail = f"too many connections {where}; close some, or try again later (RANKSIEVE_CONNECTIONS)"
        self._refuse(status, detail, {"Retry-After": str(RETRY_S)})

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget a connection."""
        super().connection_lost(exc)
        for timer in (self._late, self._stalled):
            if timer is not None:
                timer.cancel()

    def handle_events(self) -> None:
        """Handle what has arrived."""
        super().handle_events()
        self._set_timer()

    def pause_writing(self) -> None:
        """Wait for a reader."""
        super().pause_writing()
        self._stalled = self.loop.call_later(STALL_S, self.transport.abort)

    def resume_writing(self) -> None:
        """Write on: the reader has read."""
        super().resume_writing()
        if self._stalled is not None:
            self._stalled.cancel()

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        super().on_response_complete()
        self._set_timer()

    def send_400_response(self, msg: str) -> None:
        """Answer and close the connection: the next request's start is unknown."""
        self._refuse(HTTPStatus.BAD_REQUEST, msg)

    def _crowded(self) -> tuple[HTTPStatus, str] | None:
        """Return status and place of too many connections; None: not too many.

        An address above its own limit is told that it asks too much, 429; others that the server is full, 503.
        """
        if len(self.connections) > self.config.connections:
            return HTTPStatus.SERVICE_UNAVAILABLE, "to this server"
        if self.client is None:
            return None
        host = self.client[0]
        same = sum(
            isinstance(one, Protocol) and one.client is not None and one.client[0] == host
            for one in self.connections
        )
        if same <= self.config.connections_of(host):
            return None
        return HTTPStatus.TOO_MANY_REQUESTS, f"from {host}"

    def _set_timer(self) -> None:
        """Start a timer for each awaited part of a request.

        Bytes of that part do not extend it.
        """
        state = self.conn.their_state
        awaited = state if state in (h11.IDLE, h11.SEND_BODY) else None
        if awaited is self._awaited:
            return
        self._awaited = awaited
        if self._late is not None:
            self._late.cancel()
        if awaited is not None:
            seconds = HEAD_S if awaited is h11.IDLE else BODY_S
            self._late = self.loop.call_later(seconds, self.transport.abort)

    def _refuse(
        self, status: HTTPStatus, detail: str, headers: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        answer = refuse_connection(status, detail, {**headers, "Connection": "close"})
        for event in (
            h11.Response(status_code=answer.status_code, headers=answer.raw_headers),
            h11.Data(data=bytes(answer.body)),
            h11.EndOfMessage(),
        ):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()
