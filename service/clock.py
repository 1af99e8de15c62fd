"""Seconds that the phases of a job take."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from service.tracing import span


class Clock:
    """Seconds per phase, in the order in which they began."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Times a `with` block, which is a span of its own where traces are sent."""
        started = time.monotonic()
        with span(name):
            yield
        self.seconds[name] = round(time.monotonic() - started, 3)
