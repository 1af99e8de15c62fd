"""A job's events: a page of JSON, or a stream that goes on until the job has ended.

The stream is server-sent events: `id` is the event's `seq`, `event` its type, `data` its JSON. A client that
reconnects sends the last id it saw and misses nothing, because every event is read back from the store.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Hashable, Iterable
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.sse import KEEPALIVE_COMMENT, EventSourceResponse, format_sse_event
from pydantic.json_schema import SkipJsonSchema

from ranksieve.api.http.errors import responses
from ranksieve.api.http.routes.caller import Caller, Reader
from ranksieve.api.http.schemas.common import LARGEST, Count
from ranksieve.api.http.schemas.jobs import EventBody, EventPage
from ranksieve.search.errors import GoneError, NotFoundError, StoreError
from ranksieve.service.job.events import Event
from ranksieve.service.run.feed import Subscription
from ranksieve.service.store import View

KEEPALIVE_S = 15.0
"""So often a quiet stream sends something, and so often it is asked whether its reader's key has ended."""

_PAGE = 500
_PIECE_BYTES = 32_768
"""Sending costs by the piece; but what a reader that stalls leaves in the server's buffer is a piece or two."""
_STREAM: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "A page, or with `Accept: text/event-stream` the stream.",
        "content": {"text/event-stream": {"schema": {"type": "string"}}},
    }
}

router = APIRouter(prefix="/jobs/{job_id}", tags=["events"])


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    """What a stream sends next: events as text, cut into pieces between them, and the `seq` of the last one.

    `full`: there may be more already. `ended`: the job had, before they were read, so that more can only be there if
    it is full.
    """

    pieces: list[bytes]
    last: int
    full: bool
    ended: bool


class SharedReads:
    """Reads of the store by many streams at once: whoever wants what another is just reading waits for that.

    Hundreds of streams of a job wake at each of its events, and all want the same. What is wanted names the edition
    of the news that the reader knows of, so that nobody gets a page that was read before the news.
    """

    def __init__(self) -> None:
        self._reading: dict[Hashable, asyncio.Task[Page]] = {}

    async def share(self, what: Hashable, read: Callable[[], Page]) -> Page:
        """What `read` returns, in a thread, or returned to somebody else who asked for `what` a moment ago."""
        task = self._reading.get(what)
        if task is None:
            task = asyncio.create_task(run_in_threadpool(read))
            self._reading[what] = task
            task.add_done_callback(partial(self._forget, what))
        return await asyncio.shield(task)  # a reader that goes away ends nobody else's read

    def _forget(self, what: Hashable, task: "asyncio.Task[Page]") -> None:
        del self._reading[what]
        if not task.cancelled():
            task.exception()  # known to whoever waited; if all of them have gone away, to nobody


class OpenStreams:
    """The streams that clients are reading, so that a server that stops can end them."""

    def __init__(self) -> None:
        self.closing = False
        self.reads = SharedReads()
        self._open: set[Subscription] = set()

    def add(self, subscription: Subscription) -> None:
        """Count a stream in."""
        self._open.add(subscription)

    def discard(self, subscription: Subscription) -> None:
        """Count a stream out."""
        self._open.discard(subscription)

    def close(self) -> None:
        """End every stream; its client may reconnect to the next server."""
        self.closing = True
        for subscription in self._open:
            subscription.wake()


@router.get(
    "/events",
    response_model=EventPage,
    responses={**_STREAM, **responses(HTTPStatus.NOT_FOUND, HTTPStatus.GONE)},
)
def events(
    job_id: str,
    request: Request,
    reader: Reader,
    after: Annotated[int, Query(ge=0, le=LARGEST, description="`seq` of the last event already seen.")] = 0,
    limit: Annotated[int, Query(ge=1, le=1000, description="Most events in a page.")] = _PAGE,
    last_event_id: Annotated[
        Count | SkipJsonSchema[None],
        Header(description="Where a stream goes on; overrides `after`."),
    ] = None,
) -> EventPage | Response:
    """Read a page of a job's events, or follow them as server-sent events until the job has ended."""
    if "text/event-stream" in request.headers.get("accept", ""):
        start = after if last_event_id is None else last_event_id
        reader.jobs.events(
            job_id, after=start, limit=1
        )  # what cannot be is answered before the stream begins
        stream = _stream(reader, request.app.state.streams, job_id, start)
        return EventSourceResponse(stream, headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
    page = reader.jobs.events(job_id, after=after, limit=limit)
    return EventPage(events=[EventBody.of(event) for event in page], next=page[-1].seq if page else after)


async def _stream(reader: Caller, streams: OpenStreams, job_id: str, after: int) -> AsyncIterator[bytes]:
    """Server-sent events of one job after `after`, until it, the reader's key or the server's streams have ended."""
    async with reader.application.feed.subscribe(job_id) as subscription:
        streams.add(subscription)
        checked = time.monotonic()
        try:
            while not streams.closing:
                if time.monotonic() - checked >= KEEPALIVE_S:
                    if not await run_in_threadpool(reader.is_still_good):
                        return
                    checked = time.monotonic()
                what = (job_id, reader.principal.sees, after, subscription.edition)
                page = await streams.reads.share(what, partial(_page, reader.jobs, job_id, after))
                for piece in page.pieces:
                    yield piece
                after = page.last
                if page.full:
                    continue
                if page.ended:
                    return
                if not await subscription.wait(timeout_s=KEEPALIVE_S):
                    yield KEEPALIVE_COMMENT
        except (NotFoundError, GoneError, StoreError):
            return  # what the client has not read was deleted meanwhile, or cannot be read now: it asks again
        finally:
            streams.discard(subscription)


def _page(jobs: View, job_id: str, after: int) -> Page:
    events, ended = jobs.follow(job_id, after=after, limit=_PAGE)
    last = events[-1].seq if events else after
    return Page(pieces=_pieces(events), last=last, full=len(events) == _PAGE, ended=ended)


def _pieces(events: Iterable[Event]) -> list[bytes]:
    """Events as text, few pieces of up to `_PIECE_BYTES` rather than many; a longer event is a piece of its own."""
    pieces, rest = [], bytearray()
    for event in events:
        body = EventBody.of(event).model_dump_json()
        message = format_sse_event(data_str=body, event=event.type, id=str(event.seq))
        if rest and len(rest) + len(message) > _PIECE_BYTES:
            pieces.append(bytes(rest))
            rest.clear()
        rest += message
    return [*pieces, bytes(rest)] if rest else pieces
