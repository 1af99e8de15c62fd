"""Who may do what: the server's key, API keys of every scope, and the addresses that need one."""

import asyncio
import logging
from typing import Any

import pytest
from starlette.testclient import TestClient

from ranksieve.api.http.app import create_app
from ranksieve.api.http.auth import Gate, refuse_open_network
from ranksieve.api.http.hosts import is_loopback
from ranksieve.search.errors import InputError
from ranksieve.service.server.keys import Scope
from ranksieve.service.server.settings import Settings

FILLED = {"{job_id}": "1", "{name}": "config.json", "{key_id}": "1", "{webhook_id}": "1"}


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def routes(http: TestClient) -> list[tuple[str, str]]:
    """Every `/v1` route, as method and path with its parameters still in it."""
    paths: dict[str, dict[str, Any]] = http.get("/openapi.json").json()["paths"]
    return [
        (method.upper(), path)
        for path, methods in paths.items()
        for method in methods
        if path.startswith("/v1")
    ]


def example(http: TestClient, method: str, path: str) -> Any:
    """The example of a route's body in the document; None where it takes none."""
    operation = http.get("/openapi.json").json()["paths"][path][method.lower()]
    content = operation.get("requestBody", {"content": {"application/json": {}}})["content"]
    return content["application/json"].get("example")


def filled(path: str, **values: str) -> str:
    for name, value in {**FILLED, **{f"{{{name}}}": value for name, value in values.items()}}.items():
        path = path.replace(name, value)
    return path


@pytest.fixture
def locked(build, tmp_path):
    settings = Settings(data_dir=tmp_path / "locked", api_key="s3cret")
    with TestClient(create_app(build(settings)), base_url="http://127.0.0.1") as http:
        yield http


@pytest.fixture
def secret(locked):
    """Makes API keys of the locked server; returns the secret."""

    def make(owner: str, scope: str = "submit") -> str:
        body = {"owner": owner, "scope": scope}
        return locked.post("/v1/keys", json=body, headers=bearer("s3cret")).json()["secret"]

    return make


@pytest.mark.parametrize("header", [{}, bearer("wrong"), bearer(""), {"Authorization": "Basic s3cret"}])
def test_every_v1_route_wants_a_key(locked, header):
    assert len(routes(locked)) > 8
    for method, path in routes(locked):
        response = locked.request(method, filled(path), headers=header)
        assert response.status_code == 401, path
        assert response.headers["www-authenticate"] == "Bearer"
        assert response.headers["content-type"] == "application/problem+json"
    assert locked.head("/v1/jobs/1/artifacts/config.json", headers=header).status_code == 401


def test_the_key_opens_and_health_needs_none(locked):
    assert locked.get("/v1/jobs", headers=bearer("s3cret")).status_code == 200
    assert locked.get("/healthz").status_code == 200


def test_a_job_is_its_owners_and_the_admins(locked, secret, spec, pipeline):
    alice, bob, admin = secret("alice"), secret("bob"), secret("carol", "admin")
    job = locked.post("/v1/jobs", json=spec, headers=bearer(alice)).json()
    pipeline.searching.wait(60)

    assert job["owner"] == "alice"
    for token in (alice, admin, "s3cret"):
        assert locked.get(f"/v1/jobs/{job['id']}", headers=bearer(token)).status_code == 200
        assert [one["id"] for one in locked.get("/v1/jobs", headers=bearer(token)).json()["jobs"]] == [
            job["id"]
        ]
    assert locked.get("/v1/jobs", headers=bearer(bob)).json()["jobs"] == []


def test_a_key_that_only_reads_is_told_what_there_is(locked, secret):
    reader = bearer(secret("alice", "read"))
    for path in ("/v1/capabilities", "/v1/models"):
        assert locked.get(path, headers=reader).status_code == 200


def test_a_caller_is_told_whose_key_it_has(locked, secret):
    def me(key):
        return locked.get("/v1/me", headers=bearer(key)).json()

    assert me(secret("alice", "read")) == {"owner": "alice", "scope": "read"}
    assert me(secret("carol", "admin")) == {"owner": "carol", "scope": "admin"}
    assert me("s3cret") == {"owner": "admin", "scope": "admin"}


def test_a_foreign_job_looks_like_none_on_every_route(locked, secret, spec, pipeline):
    pipeline.go.clear()
    alice, bob = secret("alice"), secret("bob")
    job = locked.post("/v1/jobs", json=spec, headers=bearer(alice)).json()
    headers = {**bearer(bob), "X-Request-ID": "same"}
    tried = [(method, path) for method, path in routes(locked) if "{job_id}" in path]

    assert len(tried) >= 7
    for method, path in tried:
        foreign, absent = (
            locked.request(
                method, filled(path, job_id=id), headers=headers, json=example(locked, method, path)
            )
            for id in (job["id"], "0" * 24)
        )
        assert foreign.status_code == absent.status_code == 404, path
        assert foreign.text.replace(job["id"], "0" * 24) == absent.text, path
    stream = {**bearer(bob), "Accept": "text/event-stream"}
    assert locked.get(f"/v1/jobs/{job['id']}/events", headers=stream).status_code == 404
    assert locked.get(f"/v1/jobs/{job['id']}", headers=bearer(alice)).json()["cancel_requested"] is False


def test_a_foreign_webhook_looks_like_none_on_every_route(locked, secret):
    alice, bob = bearer(secret("alice")), bearer(secret("bob"))
    made = locked.post("/v1/webhooks", json={"url": "https://hooks.example.com/"}, headers=alice).json()
    tried = [(method, path) for method, path in routes(locked) if "{webhook_id}" in path]

    assert len(tried) == 6
    for method, path in tried:
        foreign, absent = (
            locked.request(
                method,
                filled(path, webhook_id=id),
                headers={**bob, "X-Request-ID": "same"},
                json=example(locked, method, path),
            )
            for id in (made["id"], "0" * 24)
        )
        assert foreign.status_code == absent.status_code == 404, path
        assert foreign.text.replace(made["id"], "0" * 24) == absent.text, path
    assert locked.get("/v1/webhooks", headers=bob).json() == {"webhooks": []}
    assert locked.get("/v1/webhooks", headers=alice).json()["webhooks"][0]["id"] == made["id"]
    assert locked.get("/v1/webhooks", headers=bearer("s3cret")).json()["webhooks"][0]["owner"] == "alice"


@pytest.mark.parametrize("scope", Scope)
def test_a_scope_opens_what_it_says(locked, secret, scope):
    token = secret("alice", scope)

    for method, path in routes(locked):
        needed = Scope.ADMIN if "/keys" in path else Scope.READ if method == "GET" else Scope.SUBMIT
        status = locked.request(method, filled(path), headers=bearer(token)).status_code
        assert (status == 403) == (not scope.includes(needed)), (method, path, status)


def test_a_revoked_key_and_a_rotated_one_open_nothing(locked, secret):
    admin = bearer("s3cret")
    for end in ("revoke", "rotate"):
        token = secret("alice")
        id = locked.get("/v1/keys", headers=admin).json()["keys"][-1]["id"]
        assert locked.get("/v1/jobs", headers=bearer(token)).status_code == 200
        locked.post(f"/v1/keys/{id}/{end}", json={}, headers=admin)
        refused = locked.get("/v1/jobs", headers=bearer(token))
        assert refused.status_code == 401
        assert "mistyped, expired or revoked" in refused.json()["detail"]


def test_a_loopback_server_is_open_until_there_is_a_key(http):
    assert http.get("/v1/jobs", headers=bearer("of another server")).status_code == 200

    made = http.post("/v1/keys", json={"owner": "alice"}).json()

    assert http.get("/v1/jobs").status_code == 401
    assert http.get("/v1/jobs", headers=bearer(made["secret"])).status_code == 200


def test_a_network_is_never_open_even_without_a_key(build, tmp_path):
    settings = Settings(data_dir=tmp_path / "data", host="0.0.0.0")
    with TestClient(create_app(build(settings))) as http:
        assert http.get("/v1/jobs").status_code == 401


def test_no_key_is_in_logs_events_or_answers(locked, secret, spec, caplog):
    caplog.set_level(logging.DEBUG)
    tokens = [secret("alice"), "s3cret", "rsk_000000000000_" + "x" * 43]
    bodies = []
    for token in tokens:
        bodies.append(locked.post("/v1/jobs", json=spec, headers=bearer(token)).text)
        bodies += [locked.request(*route, headers=bearer(token)).text for route in routes(locked)]
        for job in locked.get("/v1/jobs", headers=bearer(token)).json().get("jobs", []):
            bodies.append(locked.get(f"/v1/jobs/{job['id']}/events", headers=bearer(token)).text)

    for token in tokens:
        assert not any(token in text for text in [*bodies, caplog.text])


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "localhost", "::1", "[::1]"])
def test_loopback(host):
    assert is_loopback(host)
    refuse_open_network(Settings(host=host), guarded=False)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "ranksieve.example", ""])
def test_a_network_needs_a_key(host):
    assert not is_loopback(host)
    with pytest.raises(InputError, match="RANKSIEVE_API_KEY or run `ranksieve keys create`"):
        refuse_open_network(Settings(host=host), guarded=False)
    refuse_open_network(Settings(host=host), guarded=True)


@pytest.mark.parametrize(("name", "value"), [("allowed_hosts", "sieve.example"), ("trusted_proxies", "::1")])
def test_behind_a_proxy_nobody_is_admin_without_a_key(name, value):
    behind = Settings(**{name: value})
    with pytest.raises(InputError, match="is for a proxy") as refused:
        refuse_open_network(behind, guarded=False)
    assert refused.value.field == name
    refuse_open_network(behind, guarded=True)


def test_who_has_no_key_is_refused_before_the_body_is_read(locked):
    sent = []

    async def receive():
        raise AssertionError("the body was read")

    async def send(message):
        sent.append(message)

    headers = [(b"host", b"127.0.0.1"), (b"content-type", b"application/json"), (b"content-length", b"9")]
    scope = {"type": "http", "method": "POST", "path": "/v1/jobs", "query_string": b"", "headers": headers}
    asyncio.run(locked.app(scope, receive, send))

    assert sent[0]["status"] == 401


def test_an_unknown_path_of_the_api_is_shown_to_nobody_without_a_key(locked):
    assert locked.get("/v1/nope").status_code == 401
    assert locked.get("/v1/nope", headers=bearer("s3cret")).status_code == 404


def test_no_guarded_route_answers_without_the_gate(application, spec):
    app = create_app(application)
    app.user_middleware = [one for one in app.user_middleware if one.cls is not Gate]

    with TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False) as http:
        for method, path in routes(http):
            assert http.request(method, filled(path)).status_code in (422, 500), path


def test_only_the_admin_lets_jobs_overtake_others(locked, secret, spec, pipeline):
    pipeline.go.clear()
    alice = bearer(secret("alice"))

    refused = locked.post("/v1/jobs", json={**spec, "priority": 1}, headers=alice)
    made = locked.post("/v1/jobs", json={**spec, "priority": -1}, headers=alice)
    url = f"/v1/jobs/{made.json()['id']}"

    assert refused.status_code == locked.patch(url, json={"priority": 7}, headers=alice).status_code == 403
    assert "needs a key of scope admin; got 1" in refused.json()["detail"]
    assert locked.patch(url, json={"priority": 0}, headers=alice).json()["priority"] == 0
    assert locked.patch(url, json={"priority": 7}, headers=bearer("s3cret")).json()["priority"] == 7
    assert locked.patch(url, json={"name": "renamed"}, headers=alice).json()["priority"] == 7
