"""Events as pages and as a stream that can be taken up again."""

import asyncio
import json
import re
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from starlette.testclient import TestClient

from ranksieve.api.http.routes import events
from ranksieve.api.http.schemas.events import EventBody, PhaseProgressEvent
from ranksieve.search.errors import NotFoundError
from ranksieve.service.job.events import Event, EventType
from ranksieve.service.server.keys import Scope
from ranksieve.service.store import View

STREAM = {"Accept": "text/event-stream"}
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def _messages(lines: Iterator[str]) -> Iterator[dict[str, str]]:
    """Server-sent events as dictionaries of their fields; comments as `{"comment": …}`."""
    message: dict[str, str] = {}
    for line in lines:
        if not line:
            yield message
            message = {}
        else:
            name, _, value = line.partition(": ")
            message[name or "comment"] = value


def _stream(http: TestClient, job_id: str, **headers: str) -> list[dict[str, str]]:
    url = f"/v1/jobs/{job_id}/events"
    with http.stream("GET", url, headers={**STREAM, **headers}) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        return list(_messages(response.iter_lines()))


def test_a_page_and_the_next_one(shared, shared_job):
    url = f"/v1/jobs/{shared_job['id']}/events"

    first = shared.get(url, params={"limit": 3}).json()
    rest = shared.get(url, params={"after": first["next"]}).json()
    empty = shared.get(url, params={"after": rest["next"]}).json()

    assert [event["seq"] for event in first["events"]] == [1, 2, 3]
    assert rest["events"][0]["seq"] == 4
    assert rest["events"][-1]["data"]["state"] == "succeeded"
    assert empty == {"events": [], "next": rest["next"]}


def test_the_stream_replays_a_finished_job_and_ends(shared, shared_job):
    page = shared.get(f"/v1/jobs/{shared_job['id']}/events").json()["events"]

    messages = _stream(shared, shared_job["id"])

    assert [json.loads(message["data"]) for message in messages] == page
    assert [message["id"] for message in messages] == [str(event["seq"]) for event in page]
    assert [message["event"] for message in messages] == [event["type"] for event in page]


def test_the_stream_goes_on_after_the_last_event_id(shared, shared_job):
    last = shared.get(f"/v1/jobs/{shared_job['id']}/events").json()["next"]

    assert [m["id"] for m in _stream(shared, shared_job["id"], **{"Last-Event-ID": str(last - 2)})] == [
        str(last - 1),
        str(last),
    ]


def test_a_stream_that_is_over_is_told_to_be_so_that_no_browser_connects_again(shared, shared_job):
    url = f"/v1/jobs/{shared_job['id']}/events"
    last = shared.get(url).json()["next"]

    for params in ({"after": last}, {"after": last - 1, "type": "generation.completed"}):
        over = shared.get(url, params=params, headers=STREAM)
        assert (over.status_code, over.content) == (204, b"")
    assert shared.get(url, params={"after": last - 1}, headers=STREAM).status_code == 200


def test_only_events_of_some_types(shared, shared_job):
    url = f"/v1/jobs/{shared_job['id']}/events"
    wanted = ["generation.completed", "data.loaded"]
    every = shared.get(url).json()["events"]

    page = shared.get(url, params={"type": wanted}).json()
    streamed = shared.get(url, params={"type": wanted}, headers=STREAM)

    assert page["events"] == [event for event in every if event["type"] in wanted]
    assert page["next"] == page["events"][-1]["seq"]
    assert [m["id"] for m in _messages(iter(streamed.text.split("\n"))) if m] == [
        str(event["seq"]) for event in page["events"]
    ]
    assert shared.get(url, params={"type": "moon.full"}).status_code == 422


def test_the_stream_is_live_and_ends_with_the_job(http, spec, pipeline):
    pipeline.go.clear()
    job_id = http.post("/v1/jobs", json=spec).json()["id"]
    seen: list[dict[str, Any]] = []

    with http.stream("GET", f"/v1/jobs/{job_id}/events", headers=STREAM) as response:
        for message in _messages(response.iter_lines()):
            seen.append(json.loads(message["data"]))
            if seen[-1]["type"] == "generation.completed":
                pipeline.go.set()  # nothing more would come if the stream had not delivered this one

    assert [event["seq"] for event in seen] == list(range(1, len(seen) + 1))
    assert seen[-1]["data"]["state"] == "succeeded"


def test_an_idle_stream_is_kept_alive(http, spec, pipeline, monkeypatch):
    monkeypatch.setattr(events, "KEEPALIVE_S", 0.01)
    pipeline.go.clear()
    job_id = http.post("/v1/jobs", json=spec).json()["id"]

    with http.stream("GET", f"/v1/jobs/{job_id}/events", headers=STREAM) as response:
        for message in _messages(response.iter_lines()):
            if "comment" in message:
                pipeline.go.set()
    assert pipeline.go.is_set()


def test_a_stream_looks_for_what_another_server_has_told(http, spec, pipeline, application, monkeypatch):
    monkeypatch.setattr(events, "KEEPALIVE_S", 0.01)
    pipeline.go.clear()
    job = http.post("/v1/jobs", json=spec).json()
    assert pipeline.searching.wait(60)
    monkeypatch.setattr(application.store.base, "listener", None)  # another server's news wakes nobody here
    epoch = application.store.job(job["id"]).epoch
    steps = [{"phase": "search", "done": done, "total": 2} for done in (1, 2)]

    def tell(step):
        return application.store.runs.append_event(job["id"], EventType.PHASE_PROGRESS, step, epoch=epoch).seq

    first = tell(steps[0])
    with http.stream("GET", f"/v1/jobs/{job['id']}/events", headers=STREAM) as response:
        for message in _messages(response.iter_lines()):
            if message.get("id") == str(first):
                tell(steps[1])
            if "id" in message and json.loads(message["data"])["data"] == steps[1]:
                pipeline.go.set()

    assert pipeline.go.is_set()


def test_a_page_is_sent_in_few_pieces_which_are_not_long():
    def event(seq: int, size: int) -> EventBody:
        data = {"phase": "x" * size, "done": 1, "total": 2}
        return PhaseProgressEvent(seq=seq, type=EventType.PHASE_PROGRESS, at=NOW, data=data)

    short = [event(seq, 100) for seq in range(1, 501)]
    pieces = events._pieces([*short, event(501, 100_000), event(502, 1)])

    text = b"".join(pieces).decode()
    assert re.findall(r"^id: (\d+)$", text, re.MULTILINE) == [str(seq) for seq in range(1, 503)]
    assert len(pieces) < 10
    assert [len(piece) > events._PIECE_BYTES for piece in pieces[-3:]] == [False, True, False]
    assert all(piece.endswith(b"\n\n") for piece in pieces)
    assert events._pieces([]) == []


def test_a_stopping_server_ends_its_streams(http, spec, pipeline):
    pipeline.go.clear()
    job_id = http.post("/v1/jobs", json=spec).json()["id"]
    ended = threading.Event()

    with http.stream("GET", f"/v1/jobs/{job_id}/events", headers=STREAM) as response:
        for message in _messages(response.iter_lines()):
            if message["event"] == "generation.completed":
                http.app.state.streams.close()
        ended.set()

    assert ended.is_set()
    assert http.get(f"/v1/jobs/{job_id}").json()["state"] == "searching"


def test_a_job_deleted_meanwhile_ends_its_stream(http, spec, pipeline, application, monkeypatch):
    pipeline.go.clear()
    job_id = http.post("/v1/jobs", json=spec).json()["id"]

    def gone(view: View, id: str, **_: int) -> tuple[list[Event], bool]:
        raise NotFoundError(id)

    with http.stream("GET", f"/v1/jobs/{job_id}/events", headers=STREAM) as response:
        messages = _messages(response.iter_lines())
        while next(messages)["event"] != "generation.completed":
            pass
        with monkeypatch.context() as patch:
            patch.setattr(View, "follow", gone)
            application.feed.notify(job_id)
            assert list(messages) == []


@pytest.mark.parametrize("last", ["x", "-1"])
def test_a_wrong_last_event_id_is_named(shared, shared_job, last):
    response = shared.get(f"/v1/jobs/{shared_job['id']}/events", headers={**STREAM, "Last-Event-ID": last})

    assert response.status_code == 422
    assert response.json()["errors"][0]["field"] == "last-event-id"


def test_events_past_retention_are_gone_for_pages_and_streams(http, done, application):
    last = http.get(f"/v1/jobs/{done['id']}/events").json()["next"]
    application.store.cleanup.forget_events(timedelta(seconds=-1))
    url = f"/v1/jobs/{done['id']}/events"

    for headers in ({}, STREAM, {**STREAM, "Last-Event-ID": str(last - 1)}):
        response = http.get(url, headers=headers)
        assert response.status_code == 410
        assert response.headers["content-type"] == "application/problem+json"
        assert (response.json()["code"], f"after={last}" in response.json()["detail"]) == ("gone", True)

    assert http.get(url, params={"after": last}).json() == {"events": [], "next": last}
    assert http.get(url, headers={**STREAM, "Last-Event-ID": str(last)}).status_code == 204
    assert http.get(url, params={"type": "job.state"}).status_code == 410


def test_many_readers_of_a_job_read_the_store_once():
    reads = []

    def read() -> events.Page:
        reads.append(1)
        go.wait(60)
        return events.Page(pieces=[b"a"], last=1, full=False, ended=False)

    async def follow() -> list[events.Page]:
        shared = events.SharedReads()
        at_once = [asyncio.create_task(shared.share("job at 1", read)) for _ in range(50)]
        other = asyncio.create_task(shared.share("job at 2", read))
        await asyncio.sleep(0)
        at_once[0].cancel()  # whoever goes away, even the one that asked first, spoils it for nobody
        go.set()
        pages = await asyncio.gather(*at_once[1:], other)
        return [*pages, await shared.share("job at 1", read)]

    go = threading.Event()
    pages = asyncio.run(follow())

    assert [page.pieces for page in pages] == [[b"a"]] * 51
    assert len(reads) == 3


def test_a_read_that_fails_fails_for_all_who_wait_and_for_nobody_later():
    def fail() -> events.Page:
        raise NotFoundError("gone")

    async def follow() -> list[object]:
        shared = events.SharedReads()
        failed = await asyncio.gather(*(shared.share("a", fail) for _ in range(2)), return_exceptions=True)
        return [
            *failed,
            await shared.share("a", lambda: events.Page(pieces=[], last=0, full=False, ended=True)),
        ]

    first, second, page = asyncio.run(follow())

    assert isinstance(first, NotFoundError)
    assert isinstance(second, NotFoundError)
    assert page == events.Page(pieces=[], last=0, full=False, ended=True)


def test_a_stream_ends_with_the_key_of_its_reader(http, spec, pipeline, application, monkeypatch):
    pipeline.go.clear()
    job = http.post("/v1/jobs", json=spec).json()["id"]
    monkeypatch.setattr(events, "KEEPALIVE_S", 0.01)
    key, secret = application.store.keys.create("root", Scope.ADMIN)
    seen = 0

    with http.stream(
        "GET", f"/v1/jobs/{job}/events", headers={**STREAM, "Authorization": f"Bearer {secret}"}
    ) as response:
        for _ in _messages(response.iter_lines()):
            seen += 1
            application.store.keys.revoke(key.id)

    assert seen
    assert not pipeline.go.is_set(), "the job goes on, its stream does not"
    pipeline.go.set()
