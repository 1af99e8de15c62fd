"""Seconds that the phases of a job take, over all of its runs."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ranksieve.service.job.files import read_json, write_json
from ranksieve.service.server.tracing import span

FILE = "seconds.json"


class Clock:
    """Seconds per phase, in the order in which they began.

    They are saved at the end of each phase, even if it fails, and a resumed job adds to them. The time of a phase whose
    process was killed is lost.
    """

    def __init__(self, directory: Path) -> None:
        self._file = directory / FILE
        self.seconds: dict[str, float] = read_json(self._file) or {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time a `with` block, and trace it as a span.

        Adds to earlier times of that name.
        """
        self.seconds.setdefault(name, 0.0)
        started = time.monotonic()
        try:
            with span(name):
                yield
        finally:
            taken = time.monotonic() - started
            self.seconds[name] = round(self.seconds[name] + taken, 3)
            write_json(self._file, self.seconds)
