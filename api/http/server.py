"""Runs the HTTP application with uvicorn: in the foreground for `serve`, in a thread for `embedded`."""

import gc
import logging
import socket
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress

import uvicorn
from fastapi import FastAPI

from ranksieve.api.http.app import create_app
from ranksieve.api.http.auth import refuse_open_network
from ranksieve.api.http.protocol import Protocol
from ranksieve.api.http.telemetry import trace_requests
from ranksieve.search.errors import InfrastructureError
from ranksieve.service.application import Application
from ranksieve.service.server.settings import Settings

logger = logging.getLogger(__name__)

GRACE_S = 10
"""So long a server that stops waits for its answers to be read, in seconds; a reader that stalls is cut off then."""

Build = Callable[[Settings], Application]


class Server(uvicorn.Server):
    """Uvicorn that says when it accepts requests, and ends open event streams when it stops.

    Args:
        app: Made by `create_app`.
        access_log: Whether to log every request.
        trusted_proxies: Addresses and networks whose word is taken for where a request comes from.
    """

    def __init__(self, app: FastAPI, *, access_log: bool, trusted_proxies: Sequence[str] = ()) -> None:
        config = uvicorn.Config(
            app,
            http=Protocol,
            lifespan="on",
            log_config=None,
            access_log=access_log,
            timeout_graceful_shutdown=GRACE_S,
            proxy_headers=bool(trusted_proxies),
            forwarded_allow_ips=list(trusted_proxies),
        )
        super().__init__(config)
        self._streams = app.state.streams
        self.ready = threading.Event()

    def end(self) -> None:
        """Ask it to stop, from any thread."""
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept requests from here on.

        What has been imported so far stays until the end: collections need not look at it again and again, which
        would hold up every answer by a quarter of a second.
        """
        gc.collect()
        gc.freeze()
        await super().startup(sockets)
        self.ready.set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End the event streams, which would otherwise keep the server up, then everything else.

        What is still unread after `GRACE_S` is dropped, with the connection.
        """
        self._streams.close()
        await super().shutdown(sockets)
        for connection in self.server_state.connections:
            connection.transport.abort()


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes any free one.

    Raises:
        InfrastructureError: The address is taken or not of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        sock = socket.create_server((host, port), family=family)
    except OSError as error:
        raise InfrastructureError(f"cannot listen on {host}:{port}: {error.strerror or error}") from error
    # For its connections, too. asyncio sees to that only where it made the socket: an answer's body would else wait
    # until its head is acknowledged, 40 ms.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def url_of(sock: socket.socket) -> str:
    """The URL that a listening socket answers on."""
    host, port = sock.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def serve(settings: Settings, build: Build, announce: Callable[[str], None]) -> None:
    """Serve until a signal ends it, or an error after which no job would be run.

    Args:
        settings: Where to listen, and the key.
        build: Makes the application; called once the address is known to be free.
        announce: Called with the server's URL once it can be used.

    Raises:
        InputError: The address is open to a network, or a proxy is expected, and there is no key.
        InfrastructureError: The address is taken, or no job can be run any more: whoever started it may do so again.
        ConflictError: Another server owns the data directory.
    """
    for root in settings.roots:
        if not root.is_dir():
            logger.warning("%s, where models and data may be, is no folder at present", root)
    with listen(settings.host, settings.port) as sock:
        application = build(settings)
        application.open()
        try:
            refuse_open_network(settings, guarded=application.guarded())
            app = create_app(application, started=True)
            if settings.tracing:
                trace_requests(app)
            proxies = [str(proxy) for proxy in settings.trusted_proxies]
            server = Server(app, access_log=True, trusted_proxies=proxies)
            application.controller.on_failure = server.end
            application.start()
            announce(url_of(sock))
            with suppress(KeyboardInterrupt):  # uvicorn raises it again after a graceful shutdown
                server.run(sockets=[sock])
            if application.controller.failed:
                raise InfrastructureError(
                    "no job can be run any more, for what the log says; start the server again"
                )
        finally:
            application.stop()
