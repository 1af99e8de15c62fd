"""Spans of requests and jobs for an OpenTelemetry collector, if configured.

OpenTelemetry's own variables set the target, `OTEL_EXPORTER_OTLP_ENDPOINT` above all.
"""

from typing import TYPE_CHECKING

from fastapi import FastAPI

from ranksieve.search.errors import InputError
from ranksieve.service.server.capabilities import version_of

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter

QUIET = "healthz,readyz,metrics"
"""Paths without spans: probes request them every few seconds."""


def trace_requests(app: FastAPI, exporter: "SpanExporter | None" = None) -> "TracerProvider":
    """Set up the process's tracer, and make a span of every request to `app`.

    Args:
        app: Made by `create_app`.
        exporter: Replaces the OTLP exporter.

    Raises:
        InputError: OpenTelemetry's packages are not installed.
    """
    try:
        from opentelemetry import trace
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
        from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ModuleNotFoundError as error:
        raise InputError(
            "tracing", f"needs more packages: {error}; run pip install 'ranksieve[otel]'"
        ) from error
    named = {SERVICE_NAME: "ranksieve", SERVICE_VERSION: version_of("ranksieve")}
    provider = TracerProvider(resource=Resource.create(named))
    provider.add_span_processor(BatchSpanProcessor(exporter or OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    FastAPIInstrumentor.instrument_app(app, tracer_provider=provider, excluded_urls=QUIET)
    return provider
