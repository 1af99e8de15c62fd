"""The service as the API sees it: its parts, and work that takes several of them."""

import logging
from collections.abc import Callable
from contextlib import ExitStack, nullcontext, suppress
from pathlib import Path
from threading import Event
from typing import Any

from ranksieve.search.errors import InputError, NotFoundError, StoreError
from ranksieve.service.job.exports import best_at, check_exportable, export_of
from ranksieve.service.job.job import Job, check_deletable
from ranksieve.service.job.redaction import hide_folders
from ranksieve.service.run import cleanup
from ranksieve.service.run.controller import Controller
from ranksieve.service.run.feed import Feed
from ranksieve.service.run.forking import forked
from ranksieve.service.run.ownership import make_data_dir, take
from ranksieve.service.server.capabilities import Devices
from ranksieve.service.server.keys import ADMIN
from ranksieve.service.server.metrics import Metrics
from ranksieve.service.server.settings import Settings
from ranksieve.service.spec import JobSpec
from ranksieve.service.store import Store
from ranksieve.service.webhooks.sender import Sender

logger = logging.getLogger(__name__)

Preflight = Callable[[JobSpec, Event | None], JobSpec]
"""Check of a spec against the files and the model it names, until the event is set; raises InputError."""

Estimator = Callable[[JobSpec, Event | None], dict[str, Any]]
"""Check of a spec and estimate of its job, until the event is set; see `service.pipeline.estimate`."""


class Application:
    """The service as a whole, put together by `service.wiring`.

    Args:
        settings: Settings of the server.
        store: Store of jobs. `start` opens it and `stop` closes it.
        controller: Runs the jobs.
        feed: Wakes readers of events. `start` connects it to the store.
        preflight: Refuses a spec that cannot work, before a job is created from it.
        estimator: Estimates what a job will need.
        metrics: Counters of the server.
        sender: Sends to webhooks; None: nothing is sent.
        ray_answers: Returns whether Ray answers, or None before it was started. Starts nothing.
        ray_lacks: Returns what Ray's cluster lacks to run any job, if that is known. Starts nothing.
        devices: Returns the devices that models can run on.
    """

    def __init__(
        self,
        settings: Settings,
        store: Store,
        controller: Controller,
        feed: Feed,
        preflight: Preflight,
        estimator: Estimator,
        metrics: Metrics | None = None,
        sender: Sender | None = None,
        ray_answers: Callable[[], bool | None] = lambda: None,
        ray_lacks: Callable[[], str | None] = lambda: None,
        devices: Devices = tuple,
    ) -> None:
        self.metrics = metrics or Metrics()
        self.metrics.show_jobs_of(store)
        self.settings = settings
        self.store = store
        self.controller = controller
        self.feed = feed
        self._preflight = preflight
        self._estimator = estimator
        self.sender = sender
        self._ray_answers = ray_answers
        self.ray_lacks = ray_lacks
        self.devices = devices
        self._owned: ExitStack | None = None

    def open(self) -> None:
        """Take the data directory and the database for this server, once.

        Both are taken before either is changed.

        Raises:
            ConflictError: Another server owns the directory or the database, or a newer version wrote the database.
            StoreError: The database cannot be opened.
        """
        if self._owned is None:
            self._owned = take(self.settings, self.store)

    def start(self) -> None:
        """Start running jobs.

        Raises:
            ConflictError: See `open`.
            StoreError: See `open`.
        """
        self.open()
        assert self._owned is not None
        with ExitStack() as failing:
            failing.callback(self.stop)
            if not self.settings.shares_store:
                self.store.claims.release_all()
            self.store.base.listener = self._committed
            if self.sender is not None:
                self.sender.start()
                self._owned.callback(self.sender.stop)
            self.controller.start()
            self._owned.callback(self.controller.stop)
            failing.pop_all()

    def stop(self) -> None:
        """Stop the controller, close the store and release the data directory."""
        if self._owned is not None:
            self._owned.close()
            self._owned = None

    def guarded(self) -> bool:
        """Return whether callers must send a key.

        They must if the server has a key of its own or an API key was ever created.
        """
        return bool(self.settings.api_key) or self.store.keys.any()

    def submit(
        self,
        spec: JobSpec,
        owner: str = ADMIN,
        idempotency_key: str | None = None,
        sees: str | None = None,
        cancelled: Event | None = None,
    ) -> Job:
        """Queue a job, or return the one submitted before under the same key.

        Args:
            spec: The job.
            owner: Owner of the job.
            idempotency_key: The owner's name for this submission.
            sees: Owner whose jobs may be the parent; None: any job may.
            cancelled: Ends the check when it is set.

        Raises:
            InputError: The spec cannot work; the error names the field.
            ConflictError: The owner used the key for another spec.
            LimitError: The owner has reached the limit of queued jobs.
            CancelledError: `cancelled` was set before the check ended.
        """
        if idempotency_key is not None:
            job = self.store.submissions.submitted(spec, owner, idempotency_key)
            if job is not None:
                return job
        job_spec = forked(spec, self.store.seen_by(sees))
        job_spec = self._preflight(job_spec, cancelled)
        job = self.store.submissions.create_job(
            job_spec, owner, idempotency_key, submitted=spec, most_queued=self.settings.queued_jobs
        )
        self.controller.wake()
        return job

    def export(
        self, id: str, owner: str | None = None, *, share: float | None = None, candidate: int | None = None
    ) -> Job:
        """Queue the export of a candidate, or return the one that exists already.

        Args:
            id: The job.
            owner: Owner that the job must have; None: any.
            share: Chooses the best candidate that keeps at most this share.
            candidate: Chooses the candidate with this id.

        Raises:
            NotFoundError: There is no such job or candidate.
            ConflictError: The job has not succeeded.
            InputError: Not exactly one of both was given, no candidate is small enough, or the candidate
                could not be scored.
            LimitError: The owner has reached the limit of queued jobs.
        """
        requested = {"share": share, "candidate": candidate}
        requested = {name: value for name, value in requested.items() if value is not None}
        if len(requested) != 1:
            raise InputError("share", "give exactly one of share and candidate")
        jobs = self.store.seen_by(owner)
        job = jobs.job(id)
        check_exportable(job)
        if candidate is not None:
            found = jobs.candidate(id, candidate)
        else:
            assert share is not None
            own = (job.result or {}).get("best", {}).get("kept_block_params")
            found = best_at(jobs.front(id), share, own)
        export = self.store.submissions.create_export(
            job, export_of(job, found, requested), self.settings.queued_jobs
        )
        self.controller.wake()
        return export

    def estimate(
        self, spec: JobSpec, sees: str | None = None, cancelled: Event | None = None
    ) -> dict[str, Any]:
        """Estimate what a job will need; see `pipeline.estimate`.

        Creates no job. Works without `start`, because caches need no owner.

        Args:
            spec: The job.
            sees: Owner whose jobs may be the parent; None: any job may.
            cancelled: Ends the check when it is set.

        Raises:
            InputError: The spec cannot work; the error names the field.
            CancelledError: `cancelled` was set before the check ended.
        """
        make_data_dir(self.settings)
        return self._estimator(forked(spec, self.store.seen_by(sees)), cancelled)

    def delete(self, id: str, owner: str | None = None) -> None:
        """Delete a job that has ended, its exports, and then their files.

        Args:
            id: The job.
            owner: Owner that the job must have; None: any.

        Raises:
            NotFoundError: There is no such job.
            ConflictError: The job or one of its exports has not ended, or an export was just requested.
        """
        jobs = self.store.seen_by(owner)
        family = [*jobs.exports(id), jobs.job(id)]
        for one in family:
            check_deletable(one.id, one.state)
        for one in family:
            # A missing export was deleted by another caller, who deletes the job, too.
            with suppress(NotFoundError) if one.id != id else nullcontext():
                self.store.submissions.delete_job(one.id, owner)
            cleanup.remove(self.settings.jobs_dir, one.id)

    def wake_sender(self) -> None:
        """Have deliveries sent that are due at once."""
        if self.sender is not None:
            self.sender.wake()

    def for_users(self, value: Any) -> Any:
        """Return plain JSON values without absolute paths of this server."""
        return hide_folders(value, self.settings.private_folders)

    def artifacts_dir(self, id: str) -> Path:
        """Return the folder of a job's artifacts; it exists after an export."""
        return self.settings.jobs_dir / id / "artifacts"

    def health(self) -> dict[str, Any]:
        """Return `healthy` and `running_jobs`.

        The server is healthy while it runs jobs and sends to webhooks.
        """
        sending = self.sender is None or self.sender.alive
        return {
            "healthy": self.controller.alive and sending,
            "running_jobs": self.controller.running_jobs,
        }

    def readiness(self) -> dict[str, bool | None]:
        """Return whether each part that requests need is ready; None: not known yet."""
        return {
            "store": self._store_answers(),
            "controller": self.controller.alive and not self.controller.trouble,
            "ray": self._ray_answers(),
        }

    def _committed(self, job_id: str) -> None:
        self.feed.notify(job_id)
        self.wake_sender()

    def _store_answers(self) -> bool:
        try:
            self.store.count_jobs()
        except StoreError as error:
            logger.warning("not ready: %s", error)
            return False
        return True
