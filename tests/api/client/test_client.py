"""The Python client against the real application, and over a network that breaks."""

import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx2
import pytest

from ranksieve.api.client.client import Client
from ranksieve.api.client.connection import ApiError
from ranksieve.search.errors import InfrastructureError, InputError, NotFoundError, ScoringError


class CutStream(httpx2.SyncByteStream):
    """A body that breaks after its first `chunks` pieces."""

    def __init__(self, inner: httpx2.SyncByteStream, chunks: int) -> None:
        self._inner = inner
        self._chunks = chunks

    def __iter__(self) -> Iterator[bytes]:
        for number, chunk in enumerate(self._inner):
            if number == self._chunks:
                raise httpx2.ReadError("connection reset")
            yield chunk

    def close(self) -> None:
        self._inner.close()


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


def test_a_job_from_submission_to_result(client, spec, result):
    job_id = client.submit(spec)["id"]

    events = list(client.events(job_id))

    assert events[0]["data"] == {"state": "queued"}
    assert events[-1]["data"] == {"state": "succeeded"}
    assert client.job(job_id)["result"] == result
    assert [job["id"] for job in client.jobs(states=["succeeded", "failed"])] == [job_id]
    assert [record["generation"] for record in client.generations(job_id)] == [0]
    assert len(client.candidates(job_id, generation=0)) == 2


def test_models_and_tasks(client):
    assert client.models() == {"models": [], "complete": True}
    assert [kind["kind"] for kind in client.tasks()] == ["choice", "generate", "lm"]


def test_an_estimate_submits_nothing(client, spec, estimate):
    assert client.estimate(spec) == estimate
    assert client.jobs() == []


def test_events_after_a_number(client, done):
    events = list(client.events(done["id"]))

    assert list(client.events(done["id"], after=3)) == events[3:]
    assert list(client.events(done["id"], after=len(events))) == []


def test_a_broken_stream_is_taken_up_where_it_ended(flaky, flaky_client, client, done):
    assert list(flaky_client.events(done["id"])) == list(client.events(done["id"]))
    assert flaky.resumed_at[:3] == ["0", "2", "4"]


def test_a_server_that_is_away_for_a_moment_is_waited_for(flaky, flaky_client, waits, done):
    answers = iter([None, httpx2.Response(503), httpx2.Response(429), httpx2.Response(502)])
    flaky.refuse = lambda request: next(answers, None)

    assert list(flaky_client.events(done["id"]))[-1]["data"]["state"] == "succeeded"
    assert len(waits) >= 4


def test_a_server_that_stays_away_is_given_up(flaky, flaky_client, waits, done):
    def unreachable(request: httpx2.Request) -> None:
        raise httpx2.ConnectError("refused")

    flaky.refuse = unreachable

    with pytest.raises(InfrastructureError, match=r"lost the events of job .*: refused"):
        list(flaky_client.events(done["id"]))
    assert sum(waits) == pytest.approx(31.7)
    with pytest.raises(InfrastructureError, match=r"cannot reach http://127\.0\.0\.1.*is the server running"):
        flaky_client.jobs()


def test_a_refusal_is_the_problem_document(client, spec):
    spec["search"] = {"population": 1}

    with pytest.raises(ApiError, match=r"search\.population") as caught:
        client.submit(spec)

    assert caught.value.status == 422
    assert caught.value.errors[0]["field"] == "search.population"


def test_events_of_an_unknown_job_are_a_refusal(client):
    with pytest.raises(ApiError, match="nope") as caught:
        list(client.events("nope"))

    assert caught.value.status == 404


def test_an_answer_that_is_no_problem_document_is_still_an_error(flaky, flaky_client):
    flaky.refuse = lambda request: httpx2.Response(502, text="<html>bad gateway</html>")

    with pytest.raises(ApiError, match=r"Bad Gateway \(502\)"):
        flaky_client.jobs()


@pytest.mark.parametrize("errors", [None, 5, ["not found"], [{"message": "x"}], {"Name": ["is required"]}])
def test_a_problem_of_another_program_is_told(errors):
    problem = {"title": "Gone fishing", "detail": "back soon", "errors": errors}
    transport = httpx2.MockTransport(lambda request: httpx2.Response(404, json=problem))

    with pytest.raises(ApiError, match="Gone fishing") as caught:
        Client("http://127.0.0.1", transport=transport).jobs()

    assert caught.value.errors == []


@pytest.mark.parametrize("data", ["x", "[1]", "{}"])
def test_a_stream_of_another_program_is_told(data):
    headers = {"Content-Type": "text/event-stream"}
    transport = httpx2.MockTransport(
        lambda request: httpx2.Response(200, text=f"data: {data}\n\n", headers=headers)
    )

    with pytest.raises(InfrastructureError, match=r"lost the events .* does not answer like ranksieve"):
        list(Client("http://127.0.0.1", transport=transport, wait=lambda seconds: None).events("a"))


def test_the_key_is_sent():
    def answer(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, json={"jobs": [{"seen": request.headers["Authorization"]}]})

    with Client("http://127.0.0.1", "s3cret", transport=httpx2.MockTransport(answer)) as client:
        assert client.jobs() == [{"seen": "Bearer s3cret"}]


def test_download_writes_every_file_and_leaves_no_other(client, done, tmp_path):
    target = tmp_path / "model"

    paths = client.download(done["id"], target)

    assert paths == [target / "config.json", target / "tokenizer" / "vocab.txt"]
    assert (target / "config.json").read_text() == '{"ranks": [1, 2]}'
    assert sorted(path.name for path in target.rglob("*")) == ["config.json", "tokenizer", "vocab.txt"]


def test_a_model_is_not_put_beside_another(client, done, tmp_path):
    target = tmp_path / "model"
    client.download(done["id"], target)
    (target / ".gitattributes").write_text("")
    (tmp_path / "notes").write_text("")
    client.download(done["id"], target)  # again, as after a transfer that broke
    (target / "model-00001-of-00002.safetensors").write_text("")

    with pytest.raises(InputError, match=r"output: must hold no other model; .*model-00001-of-00002.safet"):
        client.download(done["id"], target)


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "a/../../evil", "a\\..\\evil", "C:evil", ""])
def test_a_name_that_leads_out_is_refused_before_anything_is_written(tmp_path, name):
    def answer(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(
            200, json={"artifacts": [{"name": "fine", "bytes": 1}, {"name": name, "bytes": 1}]}
        )

    with (
        Client("http://127.0.0.1", transport=httpx2.MockTransport(answer)) as client,
        pytest.raises(InfrastructureError, match="outside"),
    ):
        client.download("1", tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_a_link_in_the_target_folder_is_not_followed_out(client, done, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "model" / "tokenizer").symlink_to(tmp_path / "elsewhere")

    with pytest.raises(InfrastructureError, match="outside"):
        client.download(done["id"], tmp_path / "model")


def test_a_transfer_that_breaks_leaves_the_old_file(tmp_path):
    def answer(request: httpx2.Request) -> httpx2.Response:
        if request.url.path.endswith("artifacts"):
            return httpx2.Response(200, json={"artifacts": [{"name": "config.json", "bytes": 4}]})
        whole = httpx2.ByteStream(b"new!")
        return httpx2.Response(200, stream=CutStream(whole, chunks=0))

    (tmp_path / "config.json").write_text("old")
    with (
        Client("http://127.0.0.1", transport=httpx2.MockTransport(answer)) as client,
        pytest.raises(InfrastructureError, match="broke off"),
    ):
        client.download("1", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]
    assert (tmp_path / "config.json").read_text() == "old"


def test_a_submission_under_a_name_makes_one_job(client, spec):
    first, again = (client.submit(spec, idempotency_key="k1") for _ in range(2))

    assert again["id"] == first["id"]


def test_jobs_are_found_by_their_labels(client, spec):
    job = client.submit({**spec, "labels": {"team": "nlp"}})
    client.submit(spec)

    assert [one["id"] for one in client.jobs(labels={"team": "nlp"})] == [job["id"]]


@pytest.mark.parametrize("url", ["http://localhost:abc", "http://[::1", "127.0.0.1:8765", "ftp://x", "x"])
def test_what_is_no_url_is_told(url):
    with pytest.raises(InputError, match=r"url: invalid server URL .*: .* \(example: http"):
        Client(url)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_no_proxy_stands_between_a_client_and_its_own_machine(monkeypatch, host):
    class Jobs(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"jobs": []}')

        def log_message(self, *_):
            pass

    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with ThreadingHTTPServer(("127.0.0.1", 0), Jobs) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with Client(f"http://{host}:{server.server_port}", "secret") as client:
            assert client.jobs() == []
        server.shutdown()


def test_a_proxy_that_is_not_supported_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "socksio", None)
    monkeypatch.setenv("all_proxy", "socks5://127.0.0.1:9")

    with pytest.raises(InputError, match=r"url: cannot reach 'http://there.test' through .* proxy: .*SOCKS"):
        Client("http://there.test")


def test_a_key_of_odd_letters_is_told():
    with pytest.raises(InputError, match="api_key: has characters that no key has"):
        Client("http://127.0.0.1", "schlüssel")


@pytest.mark.parametrize("body", ["<html></html>", "[1]"])
def test_a_server_that_is_another_one_is_told(body):
    transport = httpx2.MockTransport(lambda request: httpx2.Response(200, text=body))

    with pytest.raises(InfrastructureError, match="does not answer like ranksieve"):
        Client("http://127.0.0.1", transport=transport).jobs()


def test_what_json_cannot_say_is_not_sent(client):
    with pytest.raises(InputError, match="request: cannot be sent"):
        client.export("a", share=float("nan"))


def test_there_is_nothing_to_download_of_a_job_without_a_model(client, spec, pipeline, tmp_path):
    pipeline.failure = ScoringError("no")
    job = client.submit(spec)
    list(client.events(job["id"]))

    with pytest.raises(NotFoundError, match="is failed; it has no exported model"):
        client.download(job["id"], tmp_path)


def events_text(*numbers):
    states = {9: "succeeded"}
    return "".join(
        f'id: {n}\nevent: job.state\ndata: {{"seq": {n}, "data": {{"state": "{states.get(n, "searching")}"}}}}\n\n'
        for n in numbers
    )


class Cutting(httpx2.BaseTransport):
    """A server with a job of nine events, behind a proxy that ends every stream after the next one."""

    def __init__(self, *, breaks: bool = False) -> None:
        self._breaks = breaks

    def handle_request(self, request):
        path = request.url.path
        if path.endswith("/events") and "Last-Event-ID" in request.headers:
            after = int(request.headers["Last-Event-ID"])
            text = events_text(*range(after + 1, min(after + 2, 10))).encode()
            stream = Breaking(text) if self._breaks else httpx2.ByteStream(text)
            return httpx2.Response(200, headers={"content-type": "text/event-stream"}, stream=stream)
        if path.endswith("/events"):
            after = int(request.url.params["after"])
            return httpx2.Response(200, json={"events": [{"seq": n} for n in range(after + 1, 10)]})
        return httpx2.Response(200, json={"state": "succeeded"})


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
        if "Last-Event-ID" in request.headers:
            self._asked += 1
            if self._asked < 20:
                return httpx2.Response(200, headers={"content-type": "text/event-stream"}, text="")
        return super().handle_request(request)


def followed(transport):
    with Client("http://127.0.0.1", transport=transport, wait=lambda seconds: None) as client:
        return [event["seq"] for event in client.events("j1")]


def test_a_stream_that_is_cut_politely_is_taken_up_until_the_last_event_though_the_job_has_ended():
    assert followed(Cutting()) == list(range(1, 10))


def test_a_stream_may_break_any_number_of_times_as_long_as_events_come(monkeypatch):
    monkeypatch.setattr("ranksieve.api.client.client._RECONNECT_DELAYS_S", (0.2, 0.5))

    class BreakingAtFirst(Cutting):
        def handle_request(self, request):
            self._breaks = int(request.headers.get("Last-Event-ID", 9)) < 8
            return super().handle_request(request)

    assert followed(BreakingAtFirst()) == list(range(1, 10))


def test_a_server_that_answers_is_not_given_up_however_often_a_proxy_ends_its_streams():
    assert followed(Ending()) == list(range(1, 10))


def test_no_id_of_a_job_leads_to_another_path():
    asked = []

    def answer(request):
        asked.append(request.url.raw_path)
        return httpx2.Response(200, json={})

    with Client("http://127.0.0.1", transport=httpx2.MockTransport(answer)) as client:
        client.cancel("../keys?x=1")
    assert asked == [b"/v1/jobs/..%2Fkeys%3Fx%3D1/cancel"]


def test_pages_of_jobs_and_candidates_and_a_change_of_what_was_seen():
    asked = []

    def answer(request):
        asked.append((dict(request.url.params), request.headers.get("If-Match")))
        return httpx2.Response(200, json={"jobs": [], "candidates": []})

    with Client("http://127.0.0.1", transport=httpx2.MockTransport(answer)) as client:
        client.jobs(limit=3, after="j7")
        client.candidates("j1", limit=3, after=17)
        client.change("j1", {"priority": 1}, etag='"e1"')
    assert asked == [
        ({"limit": "3", "after": "j7"}, None),
        ({"limit": "3", "offset": "0", "after": "17"}, None),
        ({}, '"e1"'),
    ]


def test_a_refusal_is_no_file_of_a_model(tmp_path):
    def answer(request):
        if request.url.path.endswith("artifacts"):
            return httpx2.Response(200, json={"artifacts": [{"name": "config.json", "bytes": 4}]})
        return httpx2.Response(404, json={"title": "Not Found", "detail": "it was deleted"})

    (tmp_path / "config.json").write_text("old")
    with (
        Client("http://127.0.0.1", transport=httpx2.MockTransport(answer)) as client,
        pytest.raises(ApiError, match="it was deleted"),
    ):
        client.download("1", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]
    assert (tmp_path / "config.json").read_text() == "old"
