"""Uvicorn server of the application: in the foreground, or in a thread."""

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
from ranksieve.api.http.protocol import Config
from ranksieve.api.http.telemetry import trace_requests
from ranksieve.search.errors import InfrastructureError, InputError
from ranksieve.service.application import Application
from ranksieve.service.server.settings import Settings

logger = logging.getLogger(__name__)

GRACE_S = 10
"""Seconds that a stopping server waits for its answers to be read; then stalled readers are cut off."""

Build = Callable[[Settings], Application]


class Server(uvicorn.Server):
    """Uvicorn server that reports readiness, and ends event streams when it stops.

    Args:
        app: Made by `create_app`.
        access_log: Whether to log every request.
        trusted_proxies: Addresses and networks trusted to name the client of a request.
    """

    def __init__(self, app: FastAPI, *, access_log: bool, trusted_proxies: Sequence[str] = ()) -> None:
        config = Config(
            app,
            connections=app.state.application.settings.connections,
            trusted_proxies=trusted_proxies,
            lifespan="on",
            log_config=None,
            access_log=access_log,
            timeout_graceful_shutdown=GRACE_S,
        )
        super().__init__(config)
        self._app, self._streams = app, app.state.streams
        self.ready = threading.Event()

    def end(self) -> None:
        """Ask the server to stop, from any thread."""
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to accept requests.

        The document is made at its first use, which would delay an answer by a quarter of a second. Everything made so
        far stays until the end, so the garbage collector need not scan it again and again, which would delay answers
        as long.
        """
        self._app.openapi()
        gc.freeze()
        await super().startup(sockets)
        self.ready.set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End the event streams, which would keep the server up, then everything else.

        Answers still unread after `GRACE_S` are dropped with their connections.
        """
        self._streams.close()
        await super().shutdown(sockets)
        for connection in self.server_state.connections:
            connection.transport.abort()


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket; port 0 takes any free one.

    Raises:
        InfrastructureError: The address is taken, or not an address of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        sock = socket.create_server((host, port), family=family)
    except OSError as error:
        raise InfrastructureError(f"cannot listen on {host}:{port}: {error.strerror or error}") from error
    # Accepted connections inherit it. asyncio sets it only on sockets of its own; without it an answer's body waits
    # 40 ms until its head is acknowledged.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def url_of(sock: socket.socket) -> str:
    """Return the URL of a listening socket."""
    host, port = sock.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def serve(settings: Settings, build: Build, announce: Callable[[str], None]) -> None:
    """Serve until a signal ends the server, or an error that stops all jobs.

    Args:
        settings: Where to listen, and the key.
        build: Makes the application; called once the address is known to be free.
        announce: Called with the server's URL once it can be used.

    Raises:
        InputError: There is no key, and the address is open to a network or a proxy is expected; or a root lies in the
            data directory.
        InfrastructureError: The address is taken, or no job can run any more; restart the server.
        ConflictError: Another server owns the data directory.
    """
    for root in settings.roots:
        if root.is_relative_to(settings.data_dir):
            raise InputError(
                "roots",
                f"{root} is in the data directory, which holds the files of every owner; name another folder, and keep "
                "models and data there",
            )
        if not root.is_dir():
            logger.warning("the root %s is not a folder at present", root)
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
                    "no job can run any more; see the log for the reason, then restart the server"
                )
        finally:
            application.stop()
