"""Requests for nodes that a growing cluster has not started yet."""

import threading
import time
from collections.abc import Callable, Mapping, Sequence

Bundle = Mapping[str, float]
"""Resource, by Ray's name → amount that one node must have."""

FORGOTTEN_S = 60.0
"""Seconds after which a request that was not repeated is withdrawn: its job was cancelled, or its server ended."""


class Wanted:
    """What jobs wait for, kept up to date with the cluster's autoscaler.

    Args:
        request: Tells the autoscaler all bundles that there must be room for, in place of those before.
    """

    def __init__(self, request: Callable[[Sequence[Bundle]], None]) -> None:
        self._request = request
        self._lock = threading.Lock()
        self._asked: dict[str, tuple[Bundle, float]] = {}
        """What each job asked for last, and when, in seconds."""
        self._requested: list[Bundle] = []
        self._timer: threading.Timer | None = None

    def ask(self, job: str, bundle: Bundle) -> None:
        """Ask for a node on which one actor of a job fits."""
        with self._lock:
            self._asked[job] = bundle, time.monotonic()
            self._update()
            if self._timer is None:
                self._start_timer()

    def withdraw(self, job: str) -> None:
        """Ask no longer for a job: it has its node, or has ended."""
        with self._lock:
            self._asked.pop(job, None)
            self._update()

    def _update(self) -> None:
        bundles = [bundle for bundle, _ in self._asked.values()]
        if bundles != self._requested:
            self._requested = bundles
            self._request(bundles)

    def _start_timer(self) -> None:
        self._timer = threading.Timer(FORGOTTEN_S, self._forget)
        self._timer.daemon = True
        self._timer.start()

    def _forget(self) -> None:
        with self._lock:
            since_s = time.monotonic() - FORGOTTEN_S
            self._asked = {job: asked for job, asked in self._asked.items() if asked[1] > since_s}
            self._update()
            self._timer = None
            if self._asked:
                self._start_timer()
