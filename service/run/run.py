"""One run of a job, in a thread of its own, from its claim to its end.

A run ends in one of five ways: its pipeline returns (succeeded), raises (failed), is ended by its user (cancelled,
paused), by a stop of the server, or by a machine failure. After a stop of the server the job's state stays as it is,
and the next server resumes it. After a machine failure it waits in the queue, and crashes after too many
(`service.store.retries`). A job is started, resumed and recovered in the same way.
"""

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any

from ranksieve.search.errors import (
    CancelledError,
    InfrastructureError,
    NoRoomError,
    StoreError,
    SupersededError,
)
from ranksieve.service.job.job import Job, JobError, JobState
from ranksieve.service.run.joblog import JobLog
from ranksieve.service.run.lease import Lease
from ranksieve.service.server.logs import about
from ranksieve.service.server.tracing import span
from ranksieve.service.store import Store
from ranksieve.workers.machine.faults import machine_fault

logger = logging.getLogger(__name__)

Pipeline = Callable[[Job, JobLog], dict[str, Any]]
"""Whole work of a job, from validating to finalizing; returns its result."""


class Run:
    """Run of a job that was claimed.

    Args:
        store: Store of the job.
        log: The job.
        pipeline: Does the work of the job.
        before: Earlier runs of the same job, which have lost it and are about to end.
        lease_s: Length of the lease, in seconds.
        retry_s: Wait after the first of several machine failures in a row, in seconds.
        on_end: Called at the end, in the run's thread.
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
        """Machine failure that ended this run, set before the job can be claimed again."""
        self.error: Exception | None = None
        """Reason why the end of the run could not be saved.

        The job is then as if the run had been interrupted.
        """
        self.over = False
        self._store = store
        self._pipeline = pipeline
        self._before = before
        self._lease_s, self._retry_s = lease_s, retry_s
        self._on_end = on_end
        self._interrupted = False
        self._thread = threading.Thread(target=self._run, name=f"job-{log.job.id}", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def interrupt(self, fault: InfrastructureError | None = None) -> None:
        """Ask the pipeline to end; the job continues later.

        `fault` is the machine failure that is the reason, if any.
        """
        self.fault, self._interrupted = fault or self.fault, True
        self.log.cancelled.set()

    def join(self) -> None:
        """Wait for the end."""
        self._thread.join()

    def put_back(self, error: InfrastructureError) -> None:
        """Put the job back into the queue, with a wait.

        Raises:
            ConflictError: The job was claimed again, has ended or was deleted.
        """
        job = self.log.job
        fault = JobError.of(error, job.id)
        state = self._store.claims.put_back(job.id, fault, epoch=job.epoch, retry_s=self._retry_s).state
        logger.error("job %s: %s after a machine failure: %s", job.id, state, error)

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
            logger.warning("job %s: this run ends: %s", job.id, error)
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
            log.update(self._store.job(job.id))  # requests made before this run could be reached
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
        """End a run whose pipeline raised.

        A request of the user explains more than an error that followed it.
        """
        log = self.log
        job = self._store.claims.settle(log.job.id, self._lease_s, epoch=log.job.epoch)
        if job.state in (JobState.CANCELLED, JobState.PAUSED):
            logger.info("job %s: %s", job.id, job.state)
        elif self._interrupted and self.fault is not None:
            self.put_back(self.fault)
        elif self._interrupted or (isinstance(error, CancelledError) and log.cancelled.is_set()):
            logger.info("job %s: interrupted; it continues later", job.id)
            self._store.claims.release(job.id, epoch=job.epoch)
        elif isinstance(error, NoRoomError):
            logger.info("job %s: waits: %s", job.id, error)
            reason = JobError.of(error, job.id)
            self._store.claims.wait_for_room(job.id, reason, epoch=job.epoch, wait_s=self._retry_s)
        elif isinstance(error, InfrastructureError):
            self.fault = error
            self.put_back(error)
        else:
            failure = JobError.of(error, job.id)
            traceback = error if failure.code == "internal" else None
            logger.error("job %s: failed: %s", job.id, failure.message, exc_info=traceback)
            self._store.runs.transition(job.id, JobState.FAILED, epoch=job.epoch, error=failure)
