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
        self._bundles: dict[str, Bundle] = {}
        self._asked_s: dict[str, float] = {}
        self._timer: threading.Timer | None = None

    def ask(self, job: str, bundle: Bundle) -> None:
        """Ask for a node on which one actor of a job fits."""
        with self._lock:
            self._asked_s[job] = time.monotonic()
            self._set({**self._bundles, job: bundle})
            if self._timer is None:
                self._start_timer()

    def withdraw(self, job: str) -> None:
        """Ask no longer for a job: it has its node, or has ended."""
        with self._lock:
            self._asked_s.pop(job, None)
            self._set({name: bundle for name, bundle in self._bundles.items() if name != job})

    def _set(self, bundles: dict[str, Bundle]) -> None:
        if bundles != self._bundles:
            self._bundles = bundles
            self._request(list(bundles.values()))

    def _start_timer(self) -> None:
        self._timer = threading.Timer(FORGOTTEN_S, self._forget)
        self._timer.daemon = True
        self._timer.start()

    def _forget(self) -> None:
        with self._lock:
            since_s = time.monotonic() - FORGOTTEN_S
            self._asked_s = {job: asked_s for job, asked_s in self._asked_s.items() if asked_s > since_s}
            self._set({job: self._bundles[job] for job in self._asked_s})
            self._timer = None
            if self._bundles:
                self._start_timer()
