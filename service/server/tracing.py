"""Spans of a job and its phases, for OpenTelemetry.

Without a tracer they cost nothing and are dropped.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry import trace


@contextmanager
def span(name: str, **attributes: str | int | float) -> Iterator[None]:
    """Trace the block as a span; an exception is recorded and raised again.

    Args:
        name: Name of the step, e.g. `prepare`.
        attributes: Attributes of the span, under `ranksieve.…`.
    """
    named = {f"ranksieve.{key}": value for key, value in attributes.items()}
    with trace.get_tracer("ranksieve").start_as_current_span(name, attributes=named):
        yield
