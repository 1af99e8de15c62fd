"""Runs jobs one after another in a thread of its own.

A run of a job ends in one of five ways: its pipeline returns (succeeded), raises (failed), is ended because the
user asked (cancelled, paused), is ended because the server stops, or by a fault of the machine. After a stop its state
stays as it is, and the next server that looks takes it up again. So it does with a job whose server fell silent until
its lease ran out. After a fault the job goes back into the queue for a while, and crashes after too many (`service.
store.faults`); Ray is let go of, and joined anew. Starting a job, resuming and recovering it are the same.
"""

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from search.errors import (
    CancelledError,
    InfrastructureError,
    NotFoundError,
    StoreError,
    SupersededError,
)
from service.joblog import JobLog
from service.jobs import Job, JobError, JobState, Request
from service.lease import BEATS, Lease
from service.logs import about
from service.machine import machine_fault
from service.metrics import Metrics
from service.store import LEASE_S, RETRY_S, Store
from service.tracing import span

logger = logging.getLogger(__name__)

Pipeline = Callable[[Job, JobLog], dict[str, Any]]
"""Does the whole of a job's work, moving it from preparing to finalizing, and returns its result."""


class Controller:
    """Claims the store's jobs and runs a pipeline over each.

    Args:
        store: Where the jobs are.
        pipeline: What a job is put through.
        jobs_dir: Folder with one folder of files per job.
        close: Called after a fault of the machine, and at the end of the controller's thread, to let go of what the
            pipeline started there (an embedded Ray dies with the thread that started it).
        lease_s: So long a silent server keeps its job. Six times as often the controller looks for
            what other servers on the same database have queued or left, and whether a failed database is back.
        metrics: Counts what jobs do.
        retry_s: Wait after a job's first fault in a row, in seconds.
        tidy: Called before a job is looked for, every few seconds where there is none.
    """

    def __init__(
        self,
        store: Store,
        pipeline: Pipeline,
        jobs_dir: Path,
        close: Callable[[], None] = lambda: None,
        lease_s: float = LEASE_S,
        metrics: Metrics | None = None,
        retry_s: float = RETRY_S,
        tidy: Callable[[], None] = lambda: None,
    ) -> None:
        self._tidy = tidy
        self._metrics = metrics or Metrics()
        self._store = store
        self._pipeline = pipeline
        self._jobs_dir = jobs_dir
        self._close = close
        self._lease_s, self._retry_s = lease_s, retry_s
        self._unsettled: list[tuple[Job, StoreError]] = []
        self._changed = threading.Condition()  # guards the three below
        self._news = True
        self._stopping = False
        self._running: JobLog | None = None
        self._thread: threading.Thread | None = None
        self.trouble: str | None = None
        """Why no job is claimed at present, though the controller runs: the database failed."""

    @property
    def alive(self) -> bool:
        """Whether jobs are being run; False before `start`, after `stop` and after an unexpected error."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def running_job(self) -> str | None:
        """Id of the job under way, if any."""
        with self._changed:
            return None if self._running is None else self._running.job.id

    def start(self) -> None:
        """Starts running jobs, an interrupted one first."""
        with self._changed:
            self._stopping, self._news = False, True
        self._thread = threading.Thread(target=self._run_jobs, name="controller", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Asks the running job to end, waits until it has, and runs no more; the job can be resumed."""
        with self._changed:
            self._stopping = True
            if self._running is not None:
                self._running.cancelled.set()
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def wake(self) -> None:
        """Says that a job may have been queued."""
        with self._changed:
            self._news = True
            self._changed.notify_all()

    def request(self, id: str, request: Request, owner: str | None = None) -> Job:
        """Does what a job's user asks, or passes it on to the running job.

        Args:
            id: The job.
            request: What is asked.
            owner: Whose it has to be; None for anybody's.

        Raises:
            NotFoundError: There is no such job.
            ConflictError: It makes no sense in the job's state.
        """
        job = self._store.request(id, request, owner)
        self.notice(job)
        return job

    def notice(self, job: Job) -> None:
        """Says that a job's user has changed it, or asked something of it."""
        with self._changed:
            if self._running is not None and self._running.job.id == job.id:
                self._running.heed(job)
        self.wake()

    def _run_jobs(self) -> None:
        try:
            while self._wait_for_news():
                self._run_what_is_there()
        except Exception:
            logger.exception("the controller ends: the job store failed; restart the server to go on")
        finally:
            self._close()

    def _wait_for_news(self) -> bool:
        """Waits until jobs may be there; False when it is time to stop."""
        with self._changed:
            self._changed.wait_for(lambda: self._news or self._stopping, timeout=self._lease_s / BEATS)
            self._news = False
            return not self._stopping

    def _run_what_is_there(self) -> None:
        try:
            self._settle_unsettled()
            self._tidy()
            while not self._stopping and (job := self._store.claim_next(self._lease_s)) is not None:
                self.trouble = None
                self._run(job)
                self._tidy()
            self.trouble = None
        except StoreError as error:
            logger.error("no job is run until the database is back: %s", error)
            self.trouble = str(error)

    def _run(self, job: Job) -> None:
        log = JobLog(self._store, job, self._jobs_dir / job.id, self._metrics)
        try:
            with about(job=job.id), span("job", job=job.id), Lease(self._store, log, self._lease_s):
                self._run_to_its_end(job, log)
        except SupersededError as error:
            logger.warning("job %s: this run of it ends: %s", job.id, error)
        except StoreError as error:
            self._unsettled.append((job, error))
            raise
        finally:
            self._metrics.idle()
            with self._changed:
                self._running = None

    def _settle_unsettled(self) -> None:
        """Puts back the jobs whose writes the database refused, now that it may be back."""
        while self._unsettled:
            job, error = self._unsettled[-1]
            try:
                self._put_back(job, error)
            except (SupersededError, NotFoundError) as gone:
                logger.warning("job %s: it went on without this server: %s", job.id, gone)
            self._unsettled.pop()

    def _put_back(self, job: Job, error: InfrastructureError) -> None:
        fault = JobError.of(error, job.id)
        state = self._store.put_back(job.id, fault, epoch=job.epoch, retry_s=self._retry_s).state
        logger.error("job %s: %s after a fault of the machine: %s", job.id, state, error)

    def _run_to_its_end(self, job: Job, log: JobLog) -> None:
        try:
            self._begin(log)
            logger.info("job %s: started", job.id)
            log.raise_if_cancelled()
            result = self._pipeline(job, log)
            self._store.transition(job.id, JobState.SUCCEEDED, epoch=job.epoch, result=result)
            logger.info("job %s: succeeded", job.id)
        except (SupersededError, StoreError):
            raise
        except Exception as error:
            self._settle(log, machine_fault(error) or error)

    def _begin(self, log: JobLog) -> None:
        """Makes the job reachable for `cancel` and `stop`, then looks for what they did before it was."""
        log.directory.mkdir(parents=True, exist_ok=True)
        with self._changed:
            self._running = log
            stopping = self._stopping
        if stopping:
            log.cancelled.set()
        log.heed(self._store.job(log.job.id))

    def _settle(self, log: JobLog, error: Exception) -> None:
        """Ends a run whose pipeline raised. What was asked for explains more than what then broke."""
        job = self._store.renew(log.job.id, self._lease_s, epoch=log.job.epoch)
        if job.cancel_requested or job.pause_requested:
            state = JobState.CANCELLED if job.cancel_requested else JobState.PAUSED
            logger.info("job %s: %s", job.id, state)
            self._store.transition(job.id, state, epoch=job.epoch)
        elif self._stopping or (isinstance(error, CancelledError) and log.cancelled.is_set()):
            logger.info("job %s: interrupted (%s); it goes on later", job.id, error)
            self._store.release(job.id, epoch=job.epoch)
        elif isinstance(error, InfrastructureError):
            self._close()  # what is left of Ray may be of no use
            self._put_back(job, error)
        else:
            failure = JobError.of(error, job.id)
            traceback = error if failure.code == "internal" else None
            logger.error("job %s: failed: %s", job.id, failure.message, exc_info=traceback)
            self._store.transition(job.id, JobState.FAILED, epoch=job.epoch, error=failure)
