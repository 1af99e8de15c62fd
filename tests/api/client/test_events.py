"""Event streams of the client over a network that breaks."""

from collections.abc import Callable, Iterator

import httpx2
import pytest
from streams import CutStream

from ranksieve.api.client.client import Client
from ranksieve.api.client.connection import ApiError
from ranksieve.search.errors import InfrastructureError


class SingleEvents(httpx2.SyncByteStream):
    """An event stream in pieces of one event each, however the server sends them."""

    def __init__(self, inner: httpx2.SyncByteStream) -> None:
        self._inner = inner

    def __iter__(self) -> Iterator[bytes]:
        left = b""
        for chunk in self._inner:
            *events, left = (left + chunk).split(b"\n\n")
            yield from (event + b"\n\n" for event in events)
        yield left

    def close(self) -> None:
        self._inner.close()


class FlakyTransport(httpx2.BaseTransport):
    """Passes requests on; cuts every event stream short and refuses the requests that `refuse` picks."""

    def __init__(self, inner: httpx2.BaseTransport) -> None:
        self._inner = inner
        self.resumed_at: list[str] = []
        self.refuse: Callable[[httpx2.Request], httpx2.Response | None] = lambda request: None

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        refusal = self.refuse(request)
        if refusal is not None:
            return refusal
        response = self._inner.handle_request(request)
        if "Last-Event-ID" in request.headers:
            self.resumed_at.append(request.headers["Last-Event-ID"])
            assert isinstance(response.stream, httpx2.SyncByteStream)
            response.stream = CutStream(SingleEvents(response.stream), chunks=2)
        return response


@pytest.fixture
def flaky(http):
    return FlakyTransport(http._transport)


@pytest.fixture
def waits():
    return []


@pytest.fixture
def flaky_client(flaky, waits):
    with Client("http://127.0.0.1", transport=flaky, wait=waits.append) as client:
        yield client


def test_events_after_a_number(client, done):
    events = list(client.events(done["id"]))

    assert list(client.events(done["id"], after=3)) == events[3:]
    assert list(client.events(done["id"], after=len(events))) == []
    assert [event["type"] for event in client.events(done["id"], types=["data.loaded"])] == ["data.loaded"]


def test_broken_stream_is_resumed(flaky, flaky_client, client, done):
    assert list(flaky_client.events(done["id"])) == list(client.events(done["id"]))
    assert flaky.resumed_at[:3] == ["0", "2", "4"]


def test_server_away_for_a_moment(flaky, flaky_client, waits, done):
    answers = iter([None, httpx2.Response(503), httpx2.Response(429), httpx2.Response(502)])
    flaky.refuse = lambda request: next(answers, None)

    assert list(flaky_client.events(done["id"]))[-1]["data"]["state"] == "succeeded"
    assert len(waits) >= 4


def test_server_away_for_good(flaky, flaky_client, waits, done):
    def unreachable(request: httpx2.Request) -> None:
        raise httpx2.ConnectError("refused")

    flaky.refuse = unreachable

    with pytest.raises(InfrastructureError, match=r"lost the events of job .*: refused"):
        list(flaky_client.events(done["id"]))
    assert sum(waits) == pytest.approx(31.7)
    with pytest.raises(InfrastructureError, match=r"cannot reach http://127\.0\.0\.1.*is the server running"):
        flaky_client.jobs()


def test_events_of_an_unknown_job(client):
    with pytest.raises(ApiError, match="nope") as caught:
        list(client.events("nope"))

    assert caught.value.status == 404


@pytest.mark.parametrize("data", ["x", "[1]", "{}"])
def test_stream_of_another_program(data):
    headers = {"Content-Type": "text/event-stream"}
    transport = httpx2.MockTransport(
        lambda request: httpx2.Response(200, text=f"data: {data}\n\n", headers=headers)
    )

    with pytest.raises(InfrastructureError, match=r"lost the events .* does not answer like ranksieve"):
        list(Client("http://127.0.0.1", transport=transport, wait=lambda seconds: None).events("a"))


def test_error_without_a_problem_document(flaky, flaky_client):
    flaky.refuse = lambda request: httpx2.Response(502, text="<html>bad gateway</html>")

    with pytest.raises(ApiError, match=r"Bad Gateway \(502\)"):
        flaky_client.jobs()


class Cutting(httpx2.BaseTransport):
    """A server with a job of nine events, behind a proxy that ends every stream after the next one."""

    def __init__(self, *, breaks: bool = False) -> None:
        self._breaks = breaks

    def handle_request(self, request):
        after = int(request.headers["Last-Event-ID"])
        if after == 9:
            return httpx2.Response(204)
        text = f'id: {after + 1}\nevent: job.state\ndata: {{"seq": {after + 1}}}\n\n'.encode()
        stream = Breaking(text) if self._breaks else httpx2.ByteStream(text)
        return httpx2.Response(200, headers={"content-type": "text/event-stream"}, stream=stream)


class Breaking(httpx2.SyncByteStream):
    def __init__(self, text: bytes) -> None:
        self._text = text

    def __iter__(self):
        yield self._text
        raise httpx2.ReadError("connection reset")


class Ending(Cutting):
    """Ends some streams before their first event."""

    def __init__(self) -> None:
        super().__init__()
        self._asked = 0

    def handle_request(self, request):
        self._asked += 1
        if self._asked < 20:
            return httpx2.Response(200, headers={"content-type": "text/event-stream"}, text="")
        return super().handle_request(request)


def followed(transport):
    with Client("http://127.0.0.1", transport=transport, wait=lambda seconds: None) as client:
        return [event["seq"] for event in client.events("j1")]


def test_ended_streams_are_resumed_to_the_last_event():
    assert followed(Cutting()) == list(range(1, 10))


def test_stream_may_break_while_events_come(monkeypatch):
    monkeypatch.setattr("ranksieve.api.client.client._RECONNECT_DELAYS_S", (0.2, 0.5))

    class BreakingAtFirst(Cutting):
        def handle_request(self, request):
            self._breaks = int(request.headers["Last-Event-ID"]) < 8
            return super().handle_request(request)

    assert followed(BreakingAtFirst()) == list(range(1, 10))


def test_stream_may_end_while_the_server_answers():
    assert followed(Ending()) == list(range(1, 10))
