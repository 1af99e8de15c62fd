"""Events of a job: a page of JSON, or a stream until the job has ended.

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
from ranksieve.api.http.schemas.events import EVENT, EventBody, EventPage
from ranksieve.search.errors import GoneError, NotFoundError, StoreError
from ranksieve.service.job.events import Event, EventType
from ranksieve.service.run.feed import Subscription

KEEPALIVE_S = 15.0
"""Interval of comments in a quiet stream, and of checks of its reader's key."""

_PAGE = 500
_PIECE_BYTES = 32_768
"""Size of a piece: large pieces are cheap to send, and a stalled reader leaves one or two in the buffer."""
_STREAM: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "A page, or with `Accept: text/event-stream` the stream.",
        "content": {"text/event-stream": {"schema": {"type": "string"}}},
    },
    204: {
        "description": "The stream is over: the job has ended, and its last event was seen. Do not reconnect."
    },
}

router = APIRouter(prefix="/jobs/{job_id}", tags=["events"])


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    """Next part of a stream: events as text, in pieces, and the `seq` of the last one.

    Pieces are cut between events. `full`: there may be more events already. `ended`: the job had ended before the
    events were read, so there are more only if the page is full.
    """

    pieces: list[bytes]
    last: int
    full: bool
    ended: bool


class SharedReads:
    """Reads of the store shared by streams that want the same page at once.

    Hundreds of streams of a job wake at each of its events and want the same page. The key of a read includes the
    edition of the news that its reader knows, so that no stream gets a page from before the news.
    """

    def __init__(self) -> None:
        self._reading: dict[Hashable, asyncio.Task[Page]] = {}

    async def share(self, what: Hashable, read: Callable[[], Page]) -> Page:
        """Return the result of `read`, shared by all who ask for `what` at once.

        It runs in a thread.
        """
        task = self._reading.get(what)
        if task is None:
            task = asyncio.create_task(run_in_threadpool(read))
            self._reading[what] = task
            task.add_done_callback(partial(self._forget, what))
        return await asyncio.shield(task)  # a reader that leaves must not cancel the others' read

    def _forget(self, what: Hashable, task: "asyncio.Task[Page]") -> None:
        del self._reading[what]
        if not task.cancelled():
            task.exception()  # mark as retrieved; the waiting readers got it, if any stayed


class OpenStreams:
    """Streams that clients are reading, which a stopping server ends."""

    def __init__(self) -> None:
        self.closing = False
        self.reads = SharedReads()
        self._open: set[Subscription] = set()

    def add(self, subscription: Subscription) -> None:
        """Register a stream."""
        self._open.add(subscription)

    def discard(self, subscription: Subscription) -> None:
        """Forget a stream."""
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
    types: Annotated[
        list[EventType],
        Query(alias="type", max_length=len(EventType), description="Only events of one of these types."),
    ] = [],  # noqa: B006 (read by FastAPI)
    last_event_id: Annotated[
        Count | SkipJsonSchema[None],
        Header(description="Last event id already seen; overrides `after`."),
    ] = None,
) -> EventPage | Response:
    """Read a page of a job's events, or follow them until the job has ended.

    The stream is server-sent events.
    """
    if "text/event-stream" in request.headers.get("accept", ""):
        start = after if last_event_id is None else last_event_id
        first, ended = reader.jobs.follow(job_id, after=start, limit=1, types=types)
        if ended and not first:
            return Response(status_code=HTTPStatus.NO_CONTENT)
        stream = _stream(reader, request.app.state.streams, job_id, start, tuple(types))
        return EventSourceResponse(stream, headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
    page = reader.jobs.events(job_id, after=after, limit=limit, types=types)
    return EventPage(events=[_body(reader, event) for event in page], next=page[-1].seq if page else after)


async def _stream(
    reader: Caller, streams: OpenStreams, job_id: str, after: int, types: tuple[EventType, ...]
) -> AsyncIterator[bytes]:
    """Yield server-sent events of one job after `after`, of some types or of all.

    Ends with the job, with the reader's key or with the server's streams.
    """
    async with reader.application.feed.subscribe(job_id) as subscription:
        checked = time.monotonic()
        try:
            streams.add(subscription)
            while not streams.closing:
                if time.monotonic() - checked >= KEEPALIVE_S:
                    if not await run_in_threadpool(reader.is_still_good):
                        return
                    checked = time.monotonic()
                what = (job_id, reader.principal.sees, after, types, subscription.edition)
                page = await streams.reads.share(what, partial(_page, reader, job_id, after, types))
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
            return  # events were deleted, or cannot be read now; the client reconnects
        finally:
            streams.discard(subscription)


def _page(reader: Caller, job_id: str, after: int, types: tuple[EventType, ...]) -> Page:
    events, ended = reader.jobs.follow(job_id, after=after, limit=_PAGE, types=types)
    last = events[-1].seq if events else after
    return Page(
        pieces=_pieces([_body(reader, event) for event in events]),
        last=last,
        full=len(events) == _PAGE,
        ended=ended,
    )


def _body(reader: Caller, event: Event) -> EventBody:
    shown = {"seq": event.seq, "type": event.type, "at": event.at, "data": reader.shown(event.data)}
    return EVENT.validate_python(shown)


def _pieces(events: Iterable[EventBody]) -> list[bytes]:
    """Join events as text into few pieces of up to `_PIECE_BYTES`.

    A longer event is a piece of its own.
    """
    pieces, rest = [], bytearray()
    for event in events:
        body = event.model_dump_json()
        message = format_sse_event(data_str=body, event=event.type, id=str(event.seq))
        if rest and len(rest) + len(message) > _PIECE_BYTES:
            pieces.append(bytes(rest))
            rest.clear()
        rest += message
    return [*pieces, bytes(rest)] if rest else pieces
