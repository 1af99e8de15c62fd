"""The application as a whole: health, OpenAPI, host names, limits, the life of the service around it."""

import re
import threading
from importlib import import_module
from pkgutil import iter_modules
from urllib.parse import urljoin

import pytest
from starlette.testclient import TestClient

from ranksieve.api.http import schemas
from ranksieve.api.http.app import MAX_BODY_BYTES, create_app
from ranksieve.search.errors import ConflictError, StoreError
from ranksieve.service.job.changes import JobChanges
from ranksieve.service.spec import JobSpec


def test_health(http):
    response = http.get("/healthz")

    assert response.status_code == 200
    assert response.json()["status"] == "ok"


def test_health_fails_once_no_job_will_run(http, application):
    application.controller.stop()

    response = http.get("/healthz")

    assert response.status_code == http.head("/healthz").status_code == 503
    assert response.json()["status"] == "unhealthy"


@pytest.mark.parametrize(
    "path",
    [
        "/healthz",
        "/readyz",
        "/metrics",
        "/",
        "/page/main.js",
        "/docs",
        "/docs/api",
        "/docs/start.js",
        "/docs/style.css",
        "/docs/job-file",
        "/docs/job-file.md",
        "/openapi.json",
    ],
)
def test_head_is_answered_as_get_is(shared, path):
    got, asked = shared.get(path), shared.head(path)

    assert asked.status_code == got.status_code == 200
    assert asked.headers["content-type"] == got.headers["content-type"]


def test_health_fails_once_no_webhook_will_be_sent_to(http, application):
    application.sender.stop()

    assert http.get("/healthz").status_code == 503


def test_a_server_is_not_ready_while_no_job_is_run(http, application, monkeypatch):
    claims = threading.Semaphore(0)

    def fail(*_, **options):
        claims.release()
        raise StoreError("s3cret")

    monkeypatch.setattr(application.store.claims, "claim_next", fail)
    for _ in range(2):  # by the second claim the controller has made up its mind about the first
        application.controller.wake()
        assert claims.acquire(timeout=60)

    response = http.get("/readyz")
    assert (response.status_code, response.json()["controller"]) == (503, False)


def test_a_server_is_ready_while_its_store_answers(http, application, monkeypatch):
    assert http.get("/readyz").json() == {
        "ready": True,
        "store": True,
        "controller": True,
        "ray": None,
        "lacks": None,
    }

    def fail():
        raise StoreError("s3cret")

    monkeypatch.setattr(application.store, "count_jobs", fail)
    response = http.get("/readyz")
    assert response.status_code == 503
    assert response.json() == {"ready": False, "store": False, "controller": True, "ray": None, "lacks": None}
    assert http.get("/healthz").status_code == 200  # a restart would not help
    assert http.get("/metrics").status_code == 503


@pytest.mark.parametrize(("answers", "status"), [(None, 200), (True, 200), (False, 503)])
def test_a_server_is_not_ready_while_ray_is_silent(http, application, monkeypatch, answers, status):
    monkeypatch.setattr(application, "_ray_answers", lambda: answers)

    response = http.get("/readyz")

    assert (response.status_code, response.json()["ray"]) == (status, answers)


def test_a_cluster_without_processors_leaves_the_server_ready_and_says_so(http, application, monkeypatch):
    monkeypatch.setattr(application, "ray_lacks", lambda: "no node has a CPU")

    response = http.get("/readyz")

    assert (response.status_code, response.json()["lacks"]) == (200, "no node has a CPU")


def test_metrics_count_jobs_and_what_they_did(http, done):
    response = http.get("/metrics")

    assert response.headers["content-type"].startswith("text/plain; version=")
    assert 'ranksieve_jobs{state="succeeded"} 1.0' in response.text
    assert 'ranksieve_evaluations_total{outcome="failed"} 1.0' in response.text


def test_metrics_are_the_admins(http):
    key = http.post("/v1/keys", json={"owner": "alice"}).json()

    assert http.get("/metrics").status_code == 401
    bearer = {"Authorization": f"Bearer {key['secret']}"}
    assert http.get("/metrics", headers=bearer).status_code == 403
    assert http.get("/readyz").status_code == 200


def test_openapi_shows_an_example_of_every_body(shared):
    document = shared.get("/openapi.json").json()
    bodies = {"JobSpec": JobSpec, "JobChanges": JobChanges}
    for module in iter_modules(schemas.__path__):
        bodies |= vars(import_module(f"ranksieve.api.http.schemas.{module.name}"))

    for path, methods in [*document["paths"].items(), *document["webhooks"].items()]:
        for operation in methods.values():
            answers = [*operation["responses"].values(), operation.get("requestBody", {})]
            for content in [item for answer in answers for item in answer.get("content", {}).items()]:
                media, described = content
                if media.endswith("json"):
                    name = described["schema"]["$ref"].rpartition("/")[2]
                    shown = bodies[name].model_validate(described["example"])
                    assert set(described["example"]) <= set(shown.model_dump()), path


def test_openapi_describes_every_route_and_no_page_loads_from_elsewhere(shared):
    document = shared.get("/openapi.json").json()

    assert set(document["paths"]) == {
        "/healthz",
        "/readyz",
        "/metrics",
        "/v1/jobs",
        "/v1/estimates",
        "/v1/jobs/{job_id}",
        "/v1/jobs/{job_id}/pause",
        "/v1/jobs/{job_id}/resume",
        "/v1/jobs/{job_id}/stop",
        "/v1/jobs/{job_id}/cancel",
        "/v1/jobs/{job_id}/events",
        "/v1/jobs/{job_id}/generations",
        "/v1/jobs/{job_id}/candidates",
        "/v1/jobs/{job_id}/ranks",
        "/v1/jobs/{job_id}/exports",
        "/v1/jobs/{job_id}/artifacts",
        "/v1/jobs/{job_id}/artifacts/{name}",
        "/v1/webhooks",
        "/v1/webhooks/{webhook_id}",
        "/v1/webhooks/{webhook_id}/test",
        "/v1/webhooks/{webhook_id}/rotate",
        "/v1/webhooks/{webhook_id}/deliveries",
        "/v1/keys",
        "/v1/me",
        "/v1/keys/{key_id}/rotate",
        "/v1/keys/{key_id}/revoke",
        "/v1/capabilities",
        "/v1/models",
    }
    for methods in document["paths"].values():
        for operation in methods.values():
            assert operation["tags"]
            assert operation["description"]
            for status, answer in operation["responses"].items():
                if status in ("401", "403", "404", "409", "422"):
                    assert list(answer["content"]) == ["application/problem+json"]
    assert (
        "text/event-stream"
        in document["paths"]["/v1/jobs/{job_id}/events"]["get"]["responses"]["200"]["content"]
    )
    assert "Problem" in document["components"]["schemas"]


@pytest.mark.parametrize("path", ["/docs", "/docs/api", "/docs/routes"])
def test_the_documentation_loads_nothing_from_elsewhere(shared, path):
    page = shared.get(path)

    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'self'" in page.headers["content-security-policy"]
    loaded = re.findall(r'<(?:link|script)[^>]*(?:src|href)="([^"]+)"', page.text)
    assert loaded
    for file in loaded:
        assert shared.get(urljoin(path, file)).status_code == 200, file


def test_swagger_reads_the_document_of_this_server(shared):
    assert "'../openapi.json'" in shared.get("/docs/start.js").text
    assert shared.get("/docs/assets/../../etc/passwd").status_code == 404
    assert shared.get("/redoc").status_code == 404


def test_documentation_pages_are_linked_to_each_other(shared):
    links = re.findall(r'<a href="([^"]+)"', shared.get("/docs").text)

    assert {
        "docs/api",
        "docs/job-file",
        "docs/routes",
        "docs/commands",
        "docs/settings",
        "docs/errors",
    } <= set(links)
    for link in links:
        assert shared.get(urljoin("/docs", link)).status_code == 200, link
    routes = shared.get("/docs/routes").text
    assert '<a href="job-file">' in routes
    assert '<h3 id="jobchanges">' in routes
    assert '<a href="#jobchanges">' in routes


def test_documentation_pages_are_served_as_they_were_written_too(shared):
    page = shared.get("/docs/errors.md")

    assert page.headers["content-type"].startswith("text/markdown")
    assert page.text.startswith("# Errors\n")
    assert "Bearer &lt;key&gt;" in shared.get("/docs/errors").text


@pytest.mark.parametrize("name", ["nothing", "nothing.md", "job-file.html", "..%2Frender.py", "JOB-FILE"])
def test_documentation_has_no_other_pages(shared, name):
    assert shared.get(f"/docs/{name}").status_code == 404


def test_capabilities_are_told(shared):
    answer = shared.get("/v1/capabilities").json()

    assert answer["limits"]["body_bytes"] == MAX_BODY_BYTES
    assert answer["versions"]["torch"]
    assert answer["devices"] == []


def test_the_lifespan_starts_and_stops_the_service(application, build, settings):
    app = create_app(application)
    with TestClient(app, base_url="http://127.0.0.1"), pytest.raises(ConflictError, match="owns"):
        build(settings).start()

    again = build(settings)
    again.start()
    again.stop()
