"""The clients of `load.py`, each kind in a process of its own, and a server that does nothing to try them on.

    .venv/bin/python tests/benchmarks/load_clients.py streams URL JOB --count 200 --seconds 60
    .venv/bin/python tests/benchmarks/load_clients.py reads URL JOB --per-second 50 --seconds 60
    .venv/bin/python tests/benchmarks/load_clients.py health URL --per-second 20
    .venv/bin/python tests/benchmarks/load_clients.py stub --per-second 4

Prints what became of them as JSON; of streams, first a line with how long it took to open all of them. Streams are
followed with as little work as can be, at the lowest priority: what they cost would otherwise be measured with the
server. `health` asks for `/healthz`, and the stub prints its URL, answers reads with a page of zeros, and sends every
stream so many events a second; both until their standard input ends.
"""

import argparse
import asyncio
import itertools
import json
import math
import os
import re
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

import httpx2

PATHS = ("", "/events?limit=100", "/generations", "/candidates?limit=50", "/artifacts")
SILENCE_S = 20.0
_ID = re.compile(rb"^id: (\d+)\r?$", re.MULTILINE)
_PAGE = b"0" * 20_000


class Stream(asyncio.Protocol):
    """Follows a job's events on a connection of its own; a gap, an end or a silence is an error."""

    def __init__(self, host: str, job: str) -> None:
        self._request = (
            f"GET /v1/jobs/{job}/events HTTP/1.1\r\nHost: {host}\r\nAccept: text/event-stream\r\n\r\n"
        )
        self._rest = b""
        self._heard_s = time.monotonic()
        self._over = False
        self.begun = asyncio.Event()
        self.last = 0
        self.errors: list[str] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(self._request.encode())

    def data_received(self, data: bytes) -> None:
        self._listen()
        whole, line, self._rest = (self._rest + data).rpartition(b"\n")
        if whole and not self.begun.is_set():
            self.begun.set()
            if not whole.startswith(b"HTTP/1.1 200"):
                self.errors.append(f"a stream began with {whole[:50]!r}")
        for found in _ID.finditer(whole + line):
            if int(found[1]) != self.last + 1:
                self.errors.append(f"after event {self.last} came {int(found[1])}")
            self.last = int(found[1])

    def connection_lost(self, error: Exception | None) -> None:
        if not self._over:
            self.errors.append(f"a stream ended: {error!r}")

    def finish(self) -> None:
        """The time is over."""
        self._listen()
        self._over = True

    def _listen(self) -> None:
        if (now_s := time.monotonic()) > self._heard_s + SILENCE_S:
            self.errors.append(f"nothing for {now_s - self._heard_s:.0f} s after event {self.last}")
        self._heard_s = time.monotonic()


async def streams(url: str, job: str, count: int, seconds: float) -> dict[str, Any]:
    """Opens so many streams at once, and follows them for so long from when all are open."""
    host, port = urlsplit(url).netloc.split(":")
    loop, started_s = asyncio.get_running_loop(), time.monotonic()
    opened = await asyncio.gather(
        *(loop.create_connection(lambda: Stream(host, job), host, int(port)) for _ in range(count))
    )
    await asyncio.gather(*(stream.begun.wait() for _, stream in opened))
    print(time.monotonic() - started_s, flush=True)
    await asyncio.sleep(seconds)
    for transport, stream in opened:
        stream.finish()
        transport.close()
    errors = [error for _, stream in opened for error in stream.errors]
    return {"events": sum(stream.last for _, stream in opened), "errors": errors}


class Reads:
    """Reads at fixed times, whether or not those before have been answered."""

    def __init__(self) -> None:
        self.latencies_s: list[float] = []
        self.errors: list[str] = []

    async def run(self, url: str, job: str, per_second: float, seconds: float) -> dict[str, Any]:
        """Asks for one path of a job after another, so often, for so long."""
        return await self._run(url, [f"/v1/jobs/{job}{path}" for path in PATHS], per_second, seconds)

    async def run_health(self, url: str, per_second: float) -> dict[str, Any]:
        """Asks for `/healthz`, so often, until standard input ends."""
        running = asyncio.create_task(self._run(url, ["/healthz"], per_second, math.inf))
        await asyncio.to_thread(sys.stdin.read)
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
        return self._seen()

    async def _run(self, url: str, paths: Sequence[str], per_second: float, seconds: float) -> dict[str, Any]:
        # Connections go before the server ends them, which it may do while a request is on its way.
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=1.0)
        started_s = time.monotonic()
        async with (
            httpx2.AsyncClient(base_url=url, limits=limits, timeout=30.0) as client,
            asyncio.TaskGroup() as group,
        ):
            for number, path in zip(itertools.count(), itertools.cycle(paths)):
                due_s = started_s + number / per_second
                if due_s >= started_s + seconds:
                    break
                await asyncio.sleep(due_s - time.monotonic())
                group.create_task(self._read(client, path))
        return self._seen()

    def _seen(self) -> dict[str, Any]:
        return {"latencies_s": self.latencies_s, "errors": self.errors}

    async def _read(self, client: httpx2.AsyncClient, path: str) -> None:
        started_s = time.monotonic()
        try:
            (await client.get(path)).raise_for_status()
        except httpx2.HTTPError as error:
            self.errors.append(f"{path}: {error!r}")
        self.latencies_s.append(time.monotonic() - started_s)


class Stub(asyncio.Protocol):
    """Answers reads at once, and streams with what `tell` is given."""

    following: set[asyncio.Transport] = set()  # noqa: RUF012 (of all connections)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        if b"event-stream" in data:
            self._transport.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            self.following.add(self._transport)
        else:
            self._transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(_PAGE) + _PAGE)

    def connection_lost(self, error: Exception | None) -> None:
        self.following.discard(self._transport)

    @classmethod
    def tell(cls, number: int) -> None:
        """Sends an event to all who follow."""
        event = b"event: generation.completed\ndata: " + b"0" * 400 + b"\nid: %d\n\n" % number
        for transport in cls.following:
            transport.write(b"%x\r\n%s\r\n" % (len(event), event))


async def stub(per_second: float) -> None:
    """Serves until standard input ends."""
    loop = asyncio.get_running_loop()
    over = loop.run_in_executor(None, sys.stdin.read)
    server = await loop.create_server(Stub, "127.0.0.1", 0)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    number = 0
    while not over.done():
        await asyncio.wait([over], timeout=1 / per_second)
        number = number + 1 if Stub.following else 0
        Stub.tell(number)
    server.close()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kind", choices=["streams", "reads", "health", "stub"])
    parser.add_argument("url", nargs="?", default="")
    parser.add_argument("job", nargs="?", default="")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--per-second", type=float, default=50)
    parser.add_argument("--seconds", type=float, default=60)
    given = parser.parse_args(arguments)
    if given.kind == "stub":
        asyncio.run(stub(given.per_second))
        return
    if given.kind == "health":
        seen = asyncio.run(Reads().run_health(given.url, given.per_second))
    elif given.kind == "streams":
        os.nice(19)
        seen = asyncio.run(streams(given.url, given.job, given.count, given.seconds))
    else:
        seen = asyncio.run(Reads().run(given.url, given.job, given.per_second, given.seconds))
    json.dump({**seen, "processor_s": time.process_time()}, sys.stdout)


if __name__ == "__main__":
    main()
