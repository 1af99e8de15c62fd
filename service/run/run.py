"""One run of a job, in a thread of its own: from its claim until it ends in one of five ways.

Its pipeline returns (succeeded), raises (failed), is ended because the user asked (cancelled, paused), is ended because
the server stops, or by a fault of the machine. After a stop the job's state stays as it is, and the next server that
looks takes it up again. After a fault it goes back into the queue for a while, and crashes after too many
(`service.store.retries`). Starting a job, resuming and recovering it are the same.
"""

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any

from ranksieve.search.errors import CancelledError, InfrastructureError, StoreError, SupersededError
from ranksieve.service.job.job import Job, JobError, JobState
from ranksieve.service.run.joblog import JobLog
from ranksieve.service.run.lease import Lease
from ranksieve.service.server.logs import about
from ranksieve.service.server.tracing import span
from ranksieve.service.store import Store
from ranksieve.workers.machine.faults import machine_fault

logger = logging.getLogger(__name__)

Pipeline = Callable[[Job, JobLog], dict[str, Any]]
"""Does the whole of a job's work, moving it from validating to finalizing, and returns its result."""


class Run:
    """A run of a job that was claimed.

    Args:
        store: Where the job is.
        log: The job.
        pipeline: What it is put through.
        before: Earlier runs of the same job, which it was taken from and which are about to end.
        lease_s: Length of its lease, in seconds.
        retry_s: Wait after a job's first fault in a row, in seconds.
        on_end: Called when all is over, in the run's thread.
    """

    def __init__(
        self,
        store: Store,
        log: JobLog,
        pipeline: Pipeline,
        *,
        before: Sequence["Run"],
        lease_s: float,
        retry_s: float,
        on_end: Callable[[], None],
    ) -> None:
        self.log = log
        self.fault: InfrastructureError | None = None
        """What the machine did to this run, told before the job can be claimed again."""
        self.error: Exception | None = None
        """Why the job's state could not be kept: it is as if the run had been cut off."""
        self.over = False
        self._store = store
        self._pipeline = pipeline
        self._before = before
        self._lease_s, self._retry_s = lease_s, retry_s
        self._on_end = on_end
        self._interrupted = False
        self._thread = threading.Thread(target=self._run, name=f"job-{log.job.id}", daemon=True)

    def start(self) -> None:
        """Begins."""
        self._thread.start()

    def interrupt(self, fault: InfrastructureError | None = None) -> None:
        """Asks the pipeline to end; the job goes on later. `fault`: of the machine, if that is why."""
        self.fault, self._interrupted = fault or self.fault, True
        self.log.cancelled.set()

    def join(self) -> None:
        """Waits for the end."""
        self._thread.join()

    def put_back(self, error: InfrastructureError) -> None:
        """Puts the job back into the queue, for a while.

        Raises:
            ConflictError: It went on without this run, has ended or was deleted: what the database refused was done.
        """
        job = self.log.job
        fault = JobError.of(error, job.id)
        state = self._store.claims.put_back(job.id, fault, epoch=job.epoch, retry_s=self._retry_s).state
        logger.error("job %s: %s after a fault of the machine: %s", job.id, state, error)

    def _run(self) -> None:
        job = self.log.job
        try:
            with (
                about(job=job.id),
                span("job", job=job.id),
                Lease(self._store.claims, self.log, self._lease_s),
            ):
                self._run_to_its_end()
        except SupersededError as error:
            logger.warning("job %s: this run of it ends: %s", job.id, error)
        except StoreError as error:
            logger.error("job %s: the database refused how its run ended: %s", job.id, error)
            self.error = error
        except Exception as error:
            logger.exception("job %s: its run ended unexpectedly", job.id)
            self.error = error
        finally:
            self.over = True
            self._on_end()

    def _run_to_its_end(self) -> None:
        job, log = self.log.job, self.log
        try:
            for run in self._before:  # they write to the same folder
                run.join()
            log.directory.mkdir(parents=True, exist_ok=True)
            log.heed(self._store.job(job.id))  # what was asked before this run could be reached
            logger.info("job %s: started", job.id)
            log.raise_if_cancelled()
            result = self._pipeline(job, log)
            self._store.runs.transition(job.id, JobState.SUCCEEDED, epoch=job.epoch, result=result)
            logger.info("job %s: succeeded", job.id)
        except (SupersededError, StoreError):
            raise
        except Exception as error:
            self._settle(machine_fault(error) or error)

    def _settle(self, error: Exception) -> None:
        """Ends a run whose pipeline raised. What was asked for explains more than what then broke."""
        log = self.log
        job = self._store.claims.settle(log.job.id, self._lease_s, epoch=log.job.epoch)
        if job.state in (JobState.CANCELLED, JobState.PAUSED):
            logger.info("job %s: %s", job.id, job.state)
        elif self._interrupted and self.fault is not None:
            self.put_back(self.fault)
        elif self._interrupted or (isinstance(error, CancelledError) and log.cancelled.is_set()):
            logger.info("job %s: interrupted; it goes on later", job.id)
            self._store.claims.release(job.id, epoch=job.epoch)
        elif isinstance(error, InfrastructureError):
            self.fault = error
            self.put_back(error)
        else:
            failure = JobError.of(error, job.id)
            traceback = error if failure.code == "internal" else None
            logger.error("job %s: failed: %s", job.id, failure.message, exc_info=traceback)
            self._store.runs.transition(job.id, JobState.FAILED, epoch=job.epoch, error=failure)
