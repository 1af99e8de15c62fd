"""Controller of jobs: claims them, passes on requests, and ends them all.

Several jobs run at once, each in a thread of its own. They share one Ray session. A job that a machine failure
interrupted is tried again: with a new session if no other job runs, else with the same one if it still answers. If it
does not, all jobs are put back, and a new session is started.
"""

import logging
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from ranksieve.search.errors import ConflictError, InfrastructureError, StoreError
from ranksieve.service.job.changes import JobChanges
from ranksieve.service.job.job import Job, Request
from ranksieve.service.run.joblog import JobLog
from ranksieve.service.run.lease import BEATS
from ranksieve.service.run.run import Pipeline, Run
from ranksieve.service.server.metrics import Metrics
from ranksieve.service.store import LEASE_S, RETRY_S, Store

logger = logging.getLogger(__name__)


class Session(Protocol):
    """Session that all jobs run on: `workers.cluster.session.Cluster`.

    Pipelines join it by themselves.
    """

    def gone(self) -> bool:
        """Return whether no job could continue with it."""

    def close(self) -> None:
        """Close it; called while no job runs."""


class NoSession:
    """Empty session for pipelines that need no Ray."""

    def gone(self) -> bool:
        """Return False: nothing can fail."""
        return False

    def close(self) -> None:
        """Do nothing."""


class Controller:
    """Claims jobs from the store and runs a pipeline over each.

    Args:
        store: Store of the jobs.
        pipeline: Does the work of a job.
        jobs_dir: Folder with one folder of files per job.
        session: Session that jobs run on. It is closed after a machine failure, and at the end.
        running_jobs: Most jobs that run at once.
        lease_s: Time that a silent server keeps its job, in seconds. The controller polls six times as often for
            jobs that other servers on the same database have queued or left, and for a failed database.
        metrics: Counters of the server.
        retry_s: Wait after the first of several machine failures in a row, in seconds.
        tidy: Called before each search for a job, and every few seconds if there is none.
    """

    def __init__(
        self,
        store: Store,
        pipeline: Pipeline,
        jobs_dir: Path,
        session: Session | None = None,
        running_jobs: int = 1,
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
        self._session = session or NoSession()
        self._running_jobs = running_jobs
        self._lease_s, self._retry_s = lease_s, retry_s
        self._unsettled: list[Run] = []
        self._changed = threading.Condition()  # guards the three below
        self._news = True
        self._stopping = False
        self._runs: list[Run] = []
        self._thread: threading.Thread | None = None
        self.trouble: str | None = None
        """Reason why no job is claimed at present: the database failed."""
        self.failed = False
        """Whether the controller ended by an unexpected error."""
        self.on_failure: Callable[[], None] = lambda: None
        """Called after such an error, once no job runs any more."""

    @property
    def alive(self) -> bool:
        """Whether jobs are being run.

        False before `start`, after `stop` and after an unexpected error.
        """
        return self._thread is not None and self._thread.is_alive()

    @property
    def running_jobs(self) -> list[str]:
        """Ids of the running jobs, in the order in which they were claimed."""
        with self._changed:
            return [run.log.job.id for run in self._runs if not run.over]

    def start(self) -> None:
        """Start running jobs, interrupted ones first."""
        with self._changed:
            self._stopping, self._news, self._runs = False, True, []
        self._thread = threading.Thread(target=self._run_jobs, name="controller", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Interrupt the running jobs and wait for them; they can be resumed."""
        with self._changed:
            self._stopping = True
            self._interrupt_all()
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def wake(self) -> None:
        """Signal that a job may have been queued, or has ended."""
        with self._changed:
            self._news = True
            self._changed.notify_all()

    def request(self, id: str, request: Request, owner: str | None = None) -> Job:
        """Carry out a user's request and tell the running job; see `UserRequests.ask`."""
        job = self._store.user_requests.ask(id, request, owner)
        self._notice(job)
        return job

    def change(self, id: str, changes: JobChanges, owner: str | None = None) -> Job:
        """Change a job and tell its running pipeline; see `UserRequests.change`."""
        job = self._store.user_requests.change(id, changes, owner)
        self._notice(job)
        return job

    def _notice(self, job: Job) -> None:
        with self._changed:
            for run in self._runs:
                if run.log.job.id == job.id:
                    run.log.update(job)
        self.wake()

    def _run_jobs(self) -> None:
        try:
            while self._wait_for_news():
                self._run_what_is_there()
        except Exception:
            logger.exception("the controller ended unexpectedly; restart the server to continue")
            self.failed = True
        finally:
            for run in self._interrupt_all():
                run.join()
            self._session.close()
            if self.failed:
                self.on_failure()

    def _wait_for_news(self) -> bool:
        """Wait for news of jobs; return False when it is time to stop."""
        with self._changed:
            self._changed.wait_for(lambda: self._news or self._stopping, timeout=self._lease_s / BEATS)
            self._news = False
            return not self._stopping

    def _run_what_is_there(self) -> None:
        try:
            self._tidy()
            self._store.claims.settle_abandoned(besides=self._going_on())
            while self._has_room() and (
                job := self._store.claims.claim_next(self._lease_s, besides=self._going_on())
            ):
                self.trouble = None
                self._start(job)
            self.trouble = None
        except StoreError as error:
            logger.error("database failure: %s. No job runs until the database is back.", error)
            self.trouble = str(error)

    def _going_on(self) -> list[str]:
        """Return the ids of jobs whose runs continue.

        After a sleep of the machine all leases are over, including those of these jobs.
        """
        with self._changed:
            return [run.log.job.id for run in self._runs if not run.log.cancelled.is_set()]

    def _has_room(self) -> bool:
        """Return whether one more job may run, after reaping ended runs."""
        with self._changed:
            ended = [run for run in self._runs if run.over or run.fault is not None]
        self._reap(ended)
        if fault := next((run.fault for run in ended if run.fault is not None), None):
            self._renew_session(fault)
        self._settle_unsettled()
        with self._changed:
            return not self._stopping and len(self._runs) < self._running_jobs

    def _start(self, job: Job) -> None:
        run = Run(
            self._store,
            JobLog(self._store, job, self._jobs_dir / job.id, self._metrics),
            self._pipeline,
            before=[run for run in self._runs if run.log.job.id == job.id],
            lease_s=self._lease_s,
            retry_s=self._retry_s,
            on_end=self.wake,
        )
        with self._changed:
            self._runs.append(run)
            if self._stopping:
                run.interrupt()
        run.start()

    def _reap(self, ended: Sequence[Run]) -> None:
        """Wait for ended runs and remove them.

        Raises:
            Exception: A run ended by an unexpected error.
        """
        for run in ended:
            run.join()
            with self._changed:
                self._runs.remove(run)
            if isinstance(run.error, StoreError):
                self._unsettled.append(run)
            elif run.error is not None:
                raise run.error

    def _renew_session(self, fault: InfrastructureError) -> None:
        """Close the session after a machine failure, unless other jobs still use it."""
        if not self._runs or self._session.gone():
            self._reap(self._interrupt_all(fault))
            self._session.close()

    def _interrupt_all(self, fault: InfrastructureError | None = None) -> list[Run]:
        with self._changed:
            for run in self._runs:
                run.interrupt(fault)
            return list(self._runs)

    def _settle_unsettled(self) -> None:
        """Put back the jobs whose writes the database refused."""
        while self._unsettled:
            run = self._unsettled[-1]
            assert isinstance(run.error, StoreError)
            try:
                run.put_back(run.error)
            except ConflictError as gone:
                logger.warning("job %s: another server has it now: %s", run.log.job.id, gone)
            self._unsettled.pop()
