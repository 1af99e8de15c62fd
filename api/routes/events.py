"""A job's events: a page of JSON, or a stream that goes on until the job has ended.

The stream is server-sent events: `id` is the event's `seq`, `event` its type, `data` its JSON. A client that
reconnects sends the last id it saw and misses nothing, because every event is read back from the store.
"""

from collections.abc import AsyncIterator
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.sse import KEEPALIVE_COMMENT, EventSourceResponse, format_sse_event
from pydantic.json_schema import SkipJsonSchema

from api.errors import responses
from api.routes.caller import Caller, Reader
from api.schemas import LARGEST, Count, EventBody, EventPage
from search.errors import GoneError, NotFoundError
from service.feed import Subscription

KEEPALIVE_S = 15.0
_PAGE = 500
_STREAM: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "A page, or with `Accept: text/event-stream` the stream.",
        "content": {"text/event-stream": {"schema": {"type": "string"}}},
    }
}

router = APIRouter(prefix="/jobs/{job_id}", tags=["events"])


class OpenStreams:
    """The streams that clients are reading, so that a server that stops can end them."""

    def __init__(self) -> None:
        self.closing = False
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
    """Server-sent events of one job after `after`, until it has ended or the server closes its streams."""
    jobs = reader.jobs
    async with reader.application.feed.subscribe(job_id) as subscription:
        streams.add(subscription)
        try:
            while not streams.closing:
                # Asked before the page is read: the terminal state and its event are committed together.
                ended = (await run_in_threadpool(jobs.job, job_id)).state.ended
                page = await run_in_threadpool(jobs.events, job_id, after=after, limit=_PAGE)
                for event in page:
                    body = EventBody.of(event).model_dump_json()
                    yield format_sse_event(data_str=body, event=event.type, id=str(event.seq))
                    after = event.seq
                if page:
                    continue
                if ended:
                    return
                if not await subscription.wait(timeout_s=KEEPALIVE_S):
                    yield KEEPALIVE_COMMENT
        except (NotFoundError, GoneError):
            return  # the job, or what the client has not read of it, was deleted meanwhile
        finally:
            streams.discard(subscription)
