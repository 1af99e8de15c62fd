"""Seconds that the phases of a job take, in all of its runs together."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ranksieve.service.job.files import read_json, write_json
from ranksieve.service.server.tracing import span

FILE = "seconds.json"


class Clock:
    """Seconds per phase, in the order in which they began; of one that runs inside another, to itself alone.

    They are kept as each phase ends, however it does, and a job that is taken up again counts on. What a process was
    at when it was killed is lost.

    Args:
        directory: Folder of the job.
    """

    def __init__(self, directory: Path) -> None:
        self._file = directory / FILE
        self.seconds: dict[str, float] = read_json(self._file) or {}
        self._inside: list[float] = []
        """Of each phase that runs, the outermost first: what those inside it have taken."""

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Times a `with` block, which is a span of its own where traces are sent; adds to earlier ones of that name."""
        self.seconds.setdefault(name, 0.0)
        started = time.monotonic()
        self._inside.append(0.0)
        try:
            with span(name):
                yield
        finally:
            taken = time.monotonic() - started
            self.seconds[name] = round(self.seconds[name] + taken - self._inside.pop(), 3)
            if self._inside:
                self._inside[-1] += taken
            write_json(self._file, self.seconds)
