"""Record of one running job for its pipeline, and its signals to end."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ranksieve.search.errors import CancelledError
from ranksieve.service.job.events import EventType
from ranksieve.service.job.job import Job, JobState
from ranksieve.service.job.redaction import redact_values
from ranksieve.service.policy import policy_of
from ranksieve.service.server.metrics import Metrics
from ranksieve.service.store import Store

FACTORING = {"calibration", "projection", "recalibration", "reprojection"}
"""Phases whose progress shows that factors are being computed."""


class JobLog:
    """Store narrowed to one running job.

    Every write passes the epoch of the claim that the job runs by.

    Args:
        store: Store of the job.
        job: The job as it was claimed.
        directory: Folder of the job's files.
        metrics: Counters of the server.
    """

    def __init__(self, store: Store, job: Job, directory: Path, metrics: Metrics | None = None) -> None:
        self._store = store
        self._newest = job
        self._watchers: list[Callable[[Job], None]] = []
        self._metrics = metrics or Metrics()
        self._last_saved_s: float | None = None
        self._phases: set[str] = set()
        self.job = job
        self.directory = directory
        self.cancelled = threading.Event()
        """Set when the pipeline should end at once.

        Reasons are a cancel, a pause, a takeover, or a stop of the server.
        """
        self.stopping = threading.Event()
        """Set when the search should end and the pipeline go on with its result."""
        self._updating = threading.Lock()

    def update(self, job: Job) -> None:
        """Pass the job's newest state on to the pipeline; from any thread."""
        with self._updating:
            self._newest = job
            for watch in self._watchers:
                watch(job)
            if job.cancel_requested or job.pause_requested or job.epoch != self.job.epoch:
                self.cancelled.set()
            if job.stop_requested:
                self.stopping.set()

    @contextmanager
    def watching(self, watch: Callable[[Job], None]) -> Iterator[None]:
        """Call `watch` with the job now and at every update, for the block."""
        with self._updating:
            self._watchers.append(watch)
            watch(self._newest)
        try:
            yield
        finally:
            with self._updating:
                self._watchers.remove(watch)

    def state(self, to: JobState) -> None:
        """Move the job to another state.

        Raises:
            ConflictError: The move is not allowed, or another server has taken the job over.
        """
        self._store.runs.transition(self.job.id, to, epoch=self.job.epoch)

    def event(self, type: EventType, **data: Any) -> None:
        """Record an event for the job's user, without secrets."""
        if type is EventType.PHASE_PROGRESS:
            self._phases.add(data["phase"])
        self._store.runs.append_event(self.job.id, type, redact_values(data), epoch=self.job.epoch)

    def last_event(self, type: EventType) -> dict[str, Any] | None:
        """Return the data of the newest event of a type, also of earlier runs."""
        event = self._store.last_event(self.job.id, type)
        return None if event is None else event.data

    def progress(self, phase: str) -> Callable[[int, int], None]:
        """Return a callback that records the progress of a phase: (done, total)."""
        return lambda done, total: self.event(EventType.PHASE_PROGRESS, phase=phase, done=done, total=total)

    def generation(
        self,
        record: Mapping[str, Any],
        candidates: Sequence[Mapping[str, Any]],
        search_state: Mapping[str, Any],
    ) -> None:
        """Save a finished generation; see `Runs.save_generation`."""
        self._store.runs.save_generation(self.job.id, record, candidates, search_state, epoch=self.job.epoch)
        self._count(candidates)

    def search_state(self) -> dict[str, Any] | None:
        """Return the state of the search saved by an earlier run, or None."""
        return self._store.search_state(self.job.id)

    def memo(self) -> list[dict[str, Any]]:
        """Return every saved scoring of this job, oldest first."""
        return self._store.memo(self.job.id)

    def raise_if_cancelled(self) -> None:
        """End the pipeline if `cancelled` is set.

        Raises:
            CancelledError: `cancelled` is set.
        """
        if self.cancelled.is_set():
            raise CancelledError(f"job {self.job.id} was asked to end")

    def count_preparation(self) -> None:
        """Count what the cache had of the job's factors.

        Phases that make some report their progress.
        """
        self._metrics.looked_up("factors", found=not self._phases & FACTORING)
        if policy_of(self.job.spec).train_epochs:
            self._metrics.looked_up("trained_factors", found="training" not in self._phases)

    def holds(self, actors: int) -> None:
        """Count the actors of the job."""
        self._metrics.actors(self.job.id, actors)

    def _count(self, candidates: Sequence[Mapping[str, Any]]) -> None:
        self._metrics.scored(candidates)
        now_s = time.monotonic()
        if self._last_saved_s is not None:
            self._metrics.generation(now_s - self._last_saved_s)
        self._last_saved_s = now_s
