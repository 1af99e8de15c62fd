"""Sends spans of requests and jobs to an OpenTelemetry collector, where that is asked for.

Where to is told by OpenTelemetry's own variables, `OTEL_EXPORTER_OTLP_ENDPOINT` above all.
"""

from typing import TYPE_CHECKING

from fastapi import FastAPI

from ranksieve.search.errors import InputError
from ranksieve.service.server.capabilities import version_of

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter

QUIET = "healthz,readyz,metrics"
"""Paths that get no spans: they are asked for every few seconds."""


def trace_requests(app: FastAPI, exporter: "SpanExporter | None" = None) -> "TracerProvider":
    """Set the process's tracer up, and make a span of every request to `app`.

    Args:
        app: Made by `create_app`.
        exporter: Where spans go instead.

    Raises:
        InputError: The packages for it are not installed.
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
