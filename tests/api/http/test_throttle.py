"""Too many requests, and too many queued jobs, of one caller."""

import asyncio
import time

import limits.storage.memory
import pytest
from starlette.responses import Response
from starlette.testclient import TestClient

from ranksieve.api.http.app import create_app
from ranksieve.api.http.auth import Gate
from ranksieve.api.http.throttle import OpenRequests, Throttle
from ranksieve.search.errors import LimitError
from ranksieve.service.server.keys import Scope
from ranksieve.service.server.settings import Settings


@pytest.fixture
def serve(build, tmp_path):
    """Serves with more settings; `bearer` answers the headers of a new key."""
    clients = []

    def serve(**more):
        client = TestClient(
            create_app(build(Settings(data_dir=tmp_path / "data", api_key="s3cret", **more))),
            base_url="http://127.0.0.1",
        )
        clients.append(client.__enter__())
        return client

    yield serve
    for client in clients:
        client.__exit__(None, None, None)


def key_of(http, owner):
    body = {"owner": owner}
    made = http.post("/v1/keys", json=body, headers={"Authorization": "Bearer s3cret"}).json()
    return {"Authorization": f"Bearer {made['secret']}"}


def test_one_request_too_many_is_told_when_to_come_back():
    throttle = Throttle(per_second=3)
    for _ in range(3):
        throttle.count("alice")
    throttle.count("bob")

    with pytest.raises(LimitError, match="more than 3 requests in a second") as caught:
        throttle.count("alice")

    assert caught.value.retry_after_s == 1


def test_without_a_limit_nothing_is_counted():
    throttle = Throttle(per_second=0)
    for _ in range(1000):
        throttle.count("alice")


def test_keys_are_limited_one_by_one_and_health_is_not(serve):
    http = serve(requests_per_second=2)
    alice, bob = key_of(http, "alice"), key_of(http, "bob")

    answers = [http.get("/v1/jobs", headers=alice) for _ in range(3)]

    assert [answer.status_code for answer in answers] == [200, 200, 429]
    problem = answers[-1].json()
    assert (problem["code"], problem["status"]) == ("too_many_requests", 429)
    assert answers[-1].headers["content-type"] == "application/problem+json"
    assert answers[-1].headers["retry-after"] == "1"
    assert http.get("/v1/jobs", headers=bob).status_code == 200
    assert all(http.get(path).status_code == 200 for path in ("/healthz", "/readyz") * 3)


def test_bad_keys_are_limited_by_where_they_come_from(serve):
    http = serve(requests_per_second=2)

    statuses = [http.get("/v1/jobs", headers={"Authorization": f"Bearer {n}"}).status_code for n in range(3)]

    assert statuses == [401, 401, 429]
    assert http.get("/v1/jobs", headers={"Authorization": "Bearer s3cret"}).status_code == 200


def test_an_owner_has_so_many_queued_jobs_and_no_more(serve, spec, pipeline):
    http = serve(queued_jobs=2)
    alice, bob = key_of(http, "alice"), key_of(http, "bob")
    pipeline.go.clear()
    running = http.post("/v1/jobs", json=spec, headers=alice).json()
    assert pipeline.searching.wait(60)
    queued = [
        http.post("/v1/jobs", json=spec, headers={**alice, "Idempotency-Key": name})
        for name in ("a", "b", "c")
    ]

    assert [answer.status_code for answer in queued] == [202, 202, 429]
    assert queued[-1].headers["retry-after"] == "60"
    assert "alice has 2 queued jobs" in queued[-1].json()["detail"]
    again = http.post("/v1/jobs", json=spec, headers={**alice, "Idempotency-Key": "a"})
    assert (again.status_code, again.json()["id"]) == (202, queued[0].json()["id"])
    assert http.post("/v1/jobs", json=spec, headers=bob).status_code == 202
    http.post(f"/v1/jobs/{queued[1].json()['id']}/cancel", headers=alice)
    assert http.post("/v1/jobs", json=spec, headers=alice).status_code == 202
    assert running["state"] == "queued"


def test_callers_of_before_are_forgotten(monkeypatch):
    throttle = Throttle(per_second=2)
    storage = throttle._limiter.storage
    for number in range(1000):
        throttle.count(f"address 2001:db8::{number:x}")
    storage.timer.join()
    assert len(storage.storage) == 1000

    now_s = time.time()
    monkeypatch.setattr(limits.storage.memory.time, "time", lambda: now_s + 2)
    throttle.count("alice")
    storage.timer.join()
    assert len(storage.storage) == len(storage.expirations) == len(storage.locks) == 1


def test_open_requests_of_one_caller_are_limited_until_they_end():
    requests = OpenRequests(most=2)
    with requests.count("alice"), requests.count("bob"):
        with requests.count("alice"), pytest.raises(LimitError, match="2 requests are open"):
            requests.count("alice").__enter__()
        with requests.count("alice"):
            pass


def test_a_key_has_a_number_of_open_requests_from_whatever_address(build, tmp_path):
    application = build(Settings(data_dir=tmp_path / "data", api_key="s3cret"))
    application.start()
    _, secret = application.store.keys.create("alice", Scope.READ)

    async def statuses():
        answer, opened = asyncio.Event(), asyncio.Semaphore(0)

        async def slow(scope, receive, send):
            opened.release()
            await answer.wait()
            await Response()(scope, receive, send)

        gate = Gate(slow, application, Throttle(0), OpenRequests(most=2))

        async def get(address, key=secret):
            headers = [(b"authorization", f"Bearer {key}".encode())]
            told = []

            async def send(message):
                told.append(message)

            scope = {"type": "http", "method": "GET", "path": "/v1/jobs", "headers": headers}
            await gate({**scope, "query_string": b"", "client": (address, 1)}, None, send)
            return told[0]["status"]

        first = [asyncio.create_task(get(f"10.0.0.{number}")) for number in range(2)]
        for _ in first:
            await opened.acquire()
        refused = await get("10.0.0.3")
        other = asyncio.create_task(get("10.0.0.1", "s3cret"))
        await opened.acquire()
        answer.set()
        return [await one for one in (*first, other)], refused, await get("10.0.0.3")

    try:
        assert asyncio.run(statuses()) == ([200, 200, 200], 429, 200)
    finally:
        application.stop()
