"""Spans of requests and of what a job does."""

from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from starlette.testclient import TestClient

from ranksieve.api.http.app import create_app
from ranksieve.api.http.telemetry import trace_requests
from ranksieve.service.server.tracing import span


def test_requests_and_jobs_have_spans_and_probes_have_none(application, spec):
    app, exporter = create_app(application), InMemorySpanExporter()
    provider = trace_requests(app, exporter)

    with TestClient(app, base_url="http://127.0.0.1") as http:
        job_id = http.post("/v1/jobs", json=spec).json()["id"]
        with http.stream(
            "GET", f"/v1/jobs/{job_id}/events", headers={"Accept": "text/event-stream"}
        ) as lines:
            assert list(lines.iter_lines())
        for path in ("/healthz", "/readyz", "/metrics"):
            http.get(path)
    with span("prepare", job="j1"):
        pass
    provider.shutdown()

    spans = {one.name: one for one in exporter.get_finished_spans()}
    assert "POST /v1/jobs" in spans
    assert spans["job"].attributes["ranksieve.job"] == job_id
    assert spans["prepare"].attributes["ranksieve.job"] == "j1"
    assert not any(path in name for name in spans for path in ("healthz", "readyz", "metrics"))
