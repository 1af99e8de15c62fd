"""Methods of the client against the real application, and its connection."""

import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx2
import pytest

from ranksieve.api.client.client import Client
from ranksieve.api.client.connection import ApiError
from ranksieve.search.errors import InfrastructureError, InputError


def test_a_job_from_submission_to_result(client, spec, result):
    job_id = client.submit(spec)["id"]

    events = list(client.events(job_id))

    assert events[0]["data"] == {"state": "queued"}
    assert events[-1]["data"] == {"state": "succeeded"}
    assert client.job(job_id)["result"] == result
    assert [job["id"] for job in client.jobs(states=["succeeded", "failed"])] == [job_id]
    assert [record["generation"] for record in client.generations(job_id)] == [0]
    assert len(client.candidates(job_id, generation=0)) == 2


def test_estimate(client, spec, estimate):
    assert client.estimate(spec) == estimate
    assert client.jobs() == []


def test_refused_spec(client, spec):
    spec["search"] = {"population": 1}

    with pytest.raises(ApiError, match=r"search\.population") as caught:
        client.submit(spec)

    assert caught.value.status == 422
    assert caught.value.errors[0]["field"] == "search.population"


@pytest.mark.parametrize("errors", [None, 5, ["not found"], [{"message": "x"}], {"Name": ["is required"]}])
def test_problem_of_another_program(errors):
    problem = {"title": "Gone fishing", "detail": "back soon", "errors": errors}
    transport = httpx2.MockTransport(lambda request: httpx2.Response(404, json=problem))

    with pytest.raises(ApiError, match="Gone fishing") as caught:
        Client("http://127.0.0.1", transport=transport).jobs()

    assert caught.value.errors == []


def test_key_is_sent():
    def answer(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, json={"jobs": [{"seen": request.headers["Authorization"]}]})

    with Client("http://127.0.0.1", "s3cret", transport=httpx2.MockTransport(answer)) as client:
        assert client.jobs() == [{"seen": "Bearer s3cret"}]


def test_idempotency_key(client, spec):
    first, again = (client.submit(spec, idempotency_key="k1") for _ in range(2))

    assert again["id"] == first["id"]


def test_jobs_by_label(client, spec):
    job = client.submit({**spec, "labels": {"team": "nlp"}})
    client.submit(spec)

    assert [one["id"] for one in client.jobs(labels={"team": "nlp"})] == [job["id"]]


@pytest.mark.parametrize("url", ["http://localhost:abc", "http://[::1", "127.0.0.1:8765", "ftp://x", "x"])
def test_wrong_url(url):
    with pytest.raises(InputError, match=r"url: invalid server URL .*: .* \(example: http"):
        Client(url)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_no_proxy_to_this_machine(monkeypatch, host):
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


def test_unsupported_proxy(monkeypatch):
    monkeypatch.setitem(sys.modules, "socksio", None)
    monkeypatch.setenv("all_proxy", "socks5://127.0.0.1:9")

    with pytest.raises(InputError, match=r"url: cannot reach 'http://there.test' through .* proxy: .*SOCKS"):
        Client("http://there.test")


def test_malformed_key():
    with pytest.raises(InputError, match="api_key: has characters that no key has"):
        Client("http://127.0.0.1", "schlüssel")


@pytest.mark.parametrize("body", ["<html></html>", "[1]"])
def test_another_server(body):
    transport = httpx2.MockTransport(lambda request: httpx2.Response(200, text=body))

    with pytest.raises(InfrastructureError, match="does not answer like ranksieve"):
        Client("http://127.0.0.1", transport=transport).jobs()


def test_nan_is_not_sent(client):
    with pytest.raises(InputError, match="request: cannot be sent"):
        client.export("a", share=float("nan"))


def test_ids_are_quoted():
    asked = []

    def answer(request):
        asked.append(request.url.raw_path)
        return httpx2.Response(200, json={})

    with Client("http://127.0.0.1", transport=httpx2.MockTransport(answer)) as client:
        client.cancel("../keys?x=1")
    assert asked == [b"/v1/jobs/..%2Fkeys%3Fx%3D1/cancel"]


def test_pages():
    asked = []

    def answer(request):
        asked.append(dict(request.url.params))
        return httpx2.Response(200, json={"jobs": [], "candidates": []})

    with Client("http://127.0.0.1", transport=httpx2.MockTransport(answer)) as client:
        client.jobs(limit=3, after="j7")
        client.candidates("j1", limit=3, after=17)
    assert asked == [{"limit": "3", "after": "j7"}, {"limit": "3", "after": "17"}]
