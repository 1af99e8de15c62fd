"""Whole service inside this process, for one-shot commands, on a port of its own."""

import gc
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from ranksieve.api.client.client import Client
from ranksieve.api.http.app import create_app
from ranksieve.api.http.server import Server, listen, url_of
from ranksieve.search.errors import InfrastructureError
from ranksieve.service.application import Application

_HOST = "127.0.0.1"


@contextmanager
def embedded(application: Application, *, runs_jobs: bool = True) -> Iterator[Client]:
    """Serve `application` on loopback in a thread until the block ends.

    Args:
        application: Not started yet; its `settings.host` must be a loopback name.
        runs_jobs: Whether it runs jobs, unfinished ones among them, or only answers.

    Yields:
        A client of the server.

    Raises:
        ConflictError: Another server owns the data directory.
        InfrastructureError: The server did not start.
    """
    key = application.settings.api_key
    with listen(_HOST, 0) as sock:
        server = Server(create_app(application, started=True), access_log=False)
        application.controller.on_failure = server.end
        if runs_jobs:
            application.start()
        else:
            application.open()
        thread = threading.Thread(target=_run, args=(server, sock), name="http-server", daemon=True)
        thread.start()
        try:
            server.ready.wait()
            if not server.started:
                raise InfrastructureError("the embedded server did not start; its log has the reason")
            with Client(url_of(sock), key.get_secret_value() if key else None) as client:
                yield client
        finally:
            server.should_exit = True
            thread.join()
            application.stop()
            gc.unfreeze()  # the server froze all objects so far; a notebook goes on without it


def _run(server: Server, sock: socket.socket) -> None:
    try:
        server.run(sockets=[sock])
    finally:
        server.ready.set()
