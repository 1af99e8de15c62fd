"""Sending of hostile inputs, and the judgement of what a server answered."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from hostile.inputs import Expected, Input

ANSWER_S = 240.0
"""Seconds without an answer that are taken for a server that hangs."""
MOST_BYTES = 2**20
MOST_RETRIES = 30
EXCUSED = 429
"""Status by which a server says that one client asks too much, with a Retry-After."""
PROBLEM = "application/problem+json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What came back on one connection; `status` is 0 where nothing did, and -1 where nothing ever came."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""

    @property
    def retry_s(self) -> float | None:
        """Seconds after which the server wants to be asked again."""
        given = self.headers.get("retry-after", "")
        return float(given) if self.status == EXCUSED and given.isdigit() else None

    @property
    def job(self) -> str | None:
        """Job that was created, if one was."""
        return str(json.loads(self.body)["id"]) if self.status == 202 else None

    def __str__(self) -> str:
        match self.status:
            case 0:
                return "connection ended"
            case -1:
                return f"nothing in {ANSWER_S:.0f} s"
            case _:
                return f"{self.status} {self.body[:300].decode(errors='replace')}"


def fault(expected: Expected, answer: Answer, secrets: Sequence[str]) -> str | None:
    """What is wrong with an answer that asks for no retry: `5xx`, `through`, `leak`, `form` or `silent`."""
    text = answer.body.decode(errors="replace")
    if any(secret in text for secret in secrets):
        return "leak"
    match answer.status:
        case 0:
            return None if expected is Expected.CUT_OFF else "silent"
        case -1:
            return "silent"
        case status if 400 <= status < 500:
            return None if answer.headers.get("content-type") == PROBLEM else "form"
        case 202 if expected is Expected.FAILS:
            return None
        case status if status < 400:
            return "through"
        case _:
            return "5xx"


@dataclass(kw_only=True, slots=True)
class Sender:
    """Sends inputs from an address of its own."""

    host: str
    port: int
    address: str

    async def send(self, one: Input) -> list[Answer]:
        """The last answer on each connection; where one asks for a retry, it gets it."""
        if one.connections > 1:
            return await asyncio.gather(*(self._once(one) for _ in range(one.connections)))
        for _ in range(MOST_RETRIES):
            answer = await self._once(one)
            if answer.retry_s is None:
                break
            await asyncio.sleep(answer.retry_s)
        return [answer]

    async def _once(self, one: Input) -> Answer:
        writer = None
        try:
            async with asyncio.timeout(ANSWER_S):
                reader, writer = await asyncio.open_connection(
                    self.host, self.port, local_addr=(self.address, 0)
                )
                sending = asyncio.create_task(_write(writer, one))
                try:
                    return await _read(reader)
                finally:
                    sending.cancel()
        except TimeoutError:
            return Answer(status=-1)
        except (OSError, asyncio.IncompleteReadError):
            return Answer(status=0)
        finally:
            if writer is not None:
                writer.transport.abort()


async def _write(writer: asyncio.StreamWriter, one: Input) -> None:
    with suppress(OSError):  # the server may answer, and end the connection, before it has read all
        for part in one.parts:
            writer.write(part)
            await writer.drain()
            if one.pause_s:
                await asyncio.sleep(one.pause_s)


async def _read(reader: asyncio.StreamReader) -> Answer:
    head = await reader.readuntil(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").rstrip().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    length = min(int(headers.get("content-length", 0)), MOST_BYTES)
    return Answer(status=int(first.split()[1]), headers=headers, body=await reader.readexactly(length))
