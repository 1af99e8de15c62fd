"""Runs jobs, several at once, each in a thread of its own: claims them, passes on what users ask, and ends them all.

Jobs share one Ray. A job that a fault of the machine cut off is tried again with a new one where no other job runs, and
else with the same if that still answers. Where it does not, all jobs are put back, and Ray is joined anew.
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
    """What all jobs run on: `workers.cluster.session.Cluster`. They join it by themselves."""

    def gone(self) -> bool:
        """Whether no job could go on with it."""

    def close(self) -> None:
        """Lets go of it; called while no job runs."""


class NoSession:
    """For pipelines that need no Ray."""

    def gone(self) -> bool:
        """Nothing is there to fail."""
        return False

    def close(self) -> None:
        """Nothing is there to let go of."""


class Controller:
    """Claims the store's jobs and runs a pipeline over each.

    Args:
        store: Where the jobs are.
        pipeline: What a job is put through.
        jobs_dir: Folder with one folder of files per job.
        session: What they run on. It is closed after a fault of the machine, and at the end.
        running_jobs: Most that run at once.
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
        """Why no job is claimed at present, though the controller runs: the database failed."""
        self.failed = False
        """Whether it has ended by an error that nobody expected."""
        self.on_failure: Callable[[], None] = lambda: None
        """Called then, once no job runs any more."""

    @property
    def alive(self) -> bool:
        """Whether jobs are being run; False before `start`, after `stop` and after an unexpected error."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def running_jobs(self) -> list[str]:
        """Ids of the jobs under way, in the order in which they were claimed."""
        with self._changed:
            return [run.log.job.id for run in self._runs if not run.over]

    def start(self) -> None:
        """Starts running jobs, interrupted ones first."""
        with self._changed:
            self._stopping, self._news, self._runs = False, True, []
        self._thread = threading.Thread(target=self._run_jobs, name="controller", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Asks the running jobs to end, waits until they have, and runs no more; they can be resumed."""
        with self._changed:
            self._stopping = True
            self._interrupt_all()
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def wake(self) -> None:
        """Says that a job may have been queued, or has ended."""
        with self._changed:
            self._news = True
            self._changed.notify_all()

    def request(self, id: str, request: Request, owner: str | None = None) -> Job:
        """Carry out what a job's user asks, and pass it on to the running job; see `UserRequests.ask`."""
        job = self._store.user_requests.ask(id, request, owner)
        self._notice(job)
        return job

    def change(
        self,
        id: str,
        changes: JobChanges,
        owner: str | None = None,
        expect: Callable[[Job], None] = lambda job: None,
    ) -> Job:
        """Change a job, and pass the changes on to the running job; see `UserRequests.change`."""
        job = self._store.user_requests.change(id, changes, owner, expect)
        self._notice(job)
        return job

    def _notice(self, job: Job) -> None:
        with self._changed:
            for run in self._runs:
                if run.log.job.id == job.id:
                    run.log.heed(job)
        self.wake()

    def _run_jobs(self) -> None:
        try:
            while self._wait_for_news():
                self._run_what_is_there()
        except Exception:
            logger.exception("the controller ends; restart the server to go on")
            self.failed = True
        finally:
            for run in self._interrupt_all():
                run.join()
            self._session.close()
            if self.failed:
                self.on_failure()

    def _wait_for_news(self) -> bool:
        """Waits until jobs may be there, or have ended; False when it is time to stop."""
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
            logger.error("no job is run until the database is back: %s", error)
            self.trouble = str(error)

    def _going_on(self) -> list[str]:
        """The jobs whose runs go on. After a sleep of the machine all leases are over, those of these, too."""
        with self._changed:
            return [run.log.job.id for run in self._runs if not run.log.cancelled.is_set()]

    def _has_room(self) -> bool:
        """Whether one more job may run, now that those are taken leave of that have ended."""
        with self._changed:
            ended = [run for run in self._runs if run.over or run.fault is not None]
        self._take_leave(ended)
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

    def _take_leave(self, ended: Sequence[Run]) -> None:
        """Waits until runs have ended, and goes on without them.

        Raises:
            Exception: One of them met what nobody expected.
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
        """Lets go of Ray after a fault: what is left of it may be of no use, unless other jobs go on with it."""
        if not self._runs or self._session.gone():
            self._take_leave(self._interrupt_all(fault))
            self._session.close()

    def _interrupt_all(self, fault: InfrastructureError | None = None) -> list[Run]:
        with self._changed:
            for run in self._runs:
                run.interrupt(fault)
            return list(self._runs)

    def _settle_unsettled(self) -> None:
        """Puts back the jobs whose writes the database refused, now that it may be back."""
        while self._unsettled:
            run = self._unsettled[-1]
            assert isinstance(run.error, StoreError)
            try:
                run.put_back(run.error)
            except ConflictError as gone:
                logger.warning("job %s: it went on without this server: %s", run.log.job.id, gone)
            self._unsettled.pop()
