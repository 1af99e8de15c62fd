"""Spans of a job and its phases, for OpenTelemetry; without a tracer set up they cost nothing and go nowhere."""

from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry import trace


@contextmanager
def span(name: str, **attributes: str | int | float) -> Iterator[None]:
    """A span around the block; an exception that leaves it is recorded and goes on.

    Args:
        name: What is done, e.g. `prepare`.
        attributes: What it is done to, under `ranksieve.…`.
    """
    named = {f"ranksieve.{key}": value for key, value in attributes.items()}
    with trace.get_tracer("ranksieve").start_as_current_span(name, attributes=named):
        yield
