"""What a pipeline sees of the service: one job's record, and whether it should go on."""

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
"""Phases whose progress tells that factors are being made."""


class JobLog:
    """The store, narrowed to one running job: every write shows the epoch of the claim it runs by.

    Args:
        store: Where the job lives.
        job: The job as it was claimed.
        directory: Folder of the job's files.
        metrics: Counts what is saved.
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
        """Set when the pipeline should end at once: on a cancel, a pause, a takeover, or as the server stops."""
        self.stopping = threading.Event()
        """Set when the search should start nothing new, and the pipeline go on with what was found."""
        self._heeding = threading.Lock()

    def heed(self, job: Job) -> None:
        """Passes on to the pipeline what the job's user asks by now; from any thread."""
        with self._heeding:
            self._newest = job
            for watch in self._watchers:
                watch(job)
            if job.cancel_requested or job.pause_requested or job.epoch != self.job.epoch:
                self.cancelled.set()
            if job.stop_requested:
                self.stopping.set()

    @contextmanager
    def watching(self, watch: Callable[[Job], None]) -> Iterator[None]:
        """Inside, `watch` is told of the job as it is by now, and whenever something was heard of it."""
        with self._heeding:
            self._watchers.append(watch)
            watch(self._newest)
        try:
            yield
        finally:
            with self._heeding:
                self._watchers.remove(watch)

    def state(self, to: JobState, **data: Any) -> None:
        """Moves the job on.

        Raises:
            ConflictError: The job's state does not lead there, or another server has taken it over.
        """
        self._store.runs.transition(self.job.id, to, epoch=self.job.epoch, data=data)

    def event(self, type: EventType, **data: Any) -> None:
        """Tells the job's user of something, without secrets."""
        if type is EventType.PHASE_PROGRESS:
            self._phases.add(data["phase"])
        self._store.runs.append_event(self.job.id, type, redact_values(data), epoch=self.job.epoch)

    def last_event(self, type: EventType) -> dict[str, Any] | None:
        """What the job's user was last told by an event of this type, also by an earlier run."""
        event = self._store.last_event(self.job.id, type)
        return None if event is None else event.data

    def progress(self, phase: str) -> Callable[[int, int], None]:
        """Tells the job's user how far a phase is: (done, total)."""
        return lambda done, total: self.event(EventType.PHASE_PROGRESS, phase=phase, done=done, total=total)

    def generation(
        self,
        record: Mapping[str, Any],
        candidates: Sequence[Mapping[str, Any]],
        search_state: Mapping[str, Any],
    ) -> None:
        """Keep a finished generation; see `Runs.save_generation`. After it, a crash loses nothing."""
        self._store.runs.save_generation(self.job.id, record, candidates, search_state, epoch=self.job.epoch)
        self._count(candidates)

    def search_state(self) -> dict[str, Any] | None:
        """Where an earlier run of this job got to, or None if it saved no generation."""
        return self._store.search_state(self.job.id)

    def memo(self) -> list[dict[str, Any]]:
        """Every scoring this job has saved, oldest first."""
        return self._store.memo(self.job.id)

    def raise_if_cancelled(self) -> None:
        """End the pipeline if it should end.

        Raises:
            CancelledError: `cancelled` is set.
        """
        if self.cancelled.is_set():
            raise CancelledError(f"job {self.job.id} was asked to end")

    def count_preparation(self, *, propagated: bool) -> None:
        """Count what the cache had of the job's factors: phases that make some report their progress."""
        self._metrics.looked_up("factors", found=not self._phases & FACTORING)
        if propagated:
            self._metrics.looked_up("propagated_factors", found="propagation" not in self._phases)
        if policy_of(self.job.spec).train_epochs:
            self._metrics.looked_up("trained_factors", found="refinement" not in self._phases)

    def holds(self, actors: int) -> None:
        """Counts how many actors the job has."""
        self._metrics.actors(self.job.id, actors)

    def _count(self, candidates: Sequence[Mapping[str, Any]]) -> None:
        self._metrics.scored(candidates)
        now_s = time.monotonic()
        if self._last_saved_s is not None:
            self._metrics.generation(now_s - self._last_saved_s)
        self._last_saved_s = now_s
