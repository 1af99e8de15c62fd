"""Seconds that the phases of a job take."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from service.tracing import span


class Clock:
    """Seconds per phase, in the order in which they began; of one that runs inside another, to itself alone."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._inside: list[float] = []
        """Of each phase that runs, the outermost first: what those inside it have taken."""

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Times a `with` block, which is a span of its own where traces are sent; adds to earlier ones of that name."""
        earlier = self.seconds.setdefault(name, 0.0)
        started = time.monotonic()
        self._inside.append(0.0)
        try:
            with span(name):
                yield
        finally:
            taken = time.monotonic() - started
            self.seconds[name] = round(earlier + taken - self._inside.pop(), 3)
            if self._inside:
                self._inside[-1] += taken
