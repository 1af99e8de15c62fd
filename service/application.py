"""The service as the API sees it: its parts, and what takes more than one of them."""

import logging
from collections.abc import Callable
from contextlib import ExitStack, nullcontext, suppress
from pathlib import Path
from typing import Any

from ranksieve.search.errors import InputError, NotFoundError, StoreError
from ranksieve.service.job.exports import best_at, check_exportable, export_of
from ranksieve.service.job.job import Job, check_deletable
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
from ranksieve.service.webhook_registry import WebhookRegistry
from ranksieve.service.webhooks.sender import Sender

logger = logging.getLogger(__name__)

Preflight = Callable[[JobSpec], JobSpec]
"""Checks a spec against the files and the model it names; raises InputError."""

Estimator = Callable[[JobSpec], dict[str, Any]]
"""Checks a spec in the same way and tells what its job will need; see `service.pipeline.estimate`."""


class Application:
    """The service as a whole; `service.wiring` puts it together.

    Args:
        settings: Where things are.
        store: The jobs. It is opened by `start`, and closed by `stop`.
        controller: Runs them.
        feed: Wakes readers of events; `start` connects it to the store.
        preflight: Refuses a spec that cannot work, before a job is made of it.
        estimator: Tells what a job will need.
        metrics: What the controller counts.
        sender: Sends to webhooks; None where nothing is sent.
        ray_answers: Tells whether Ray is there; None while there is nothing to ask. It starts nothing.
        devices: Tells what models can run on.
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
        self.webhooks = WebhookRegistry(store, settings, sender)
        self._ray_answers = ray_answers
        self.devices = devices
        self._owned: ExitStack | None = None

    def open(self) -> None:
        """Takes the data directory, and the database, for this server before either is changed; once.

        Raises:
            ConflictError: Another server owns the directory or the database, or a newer version wrote that.
            StoreError: The database cannot be opened.
        """
        if self._owned is None:
            self._owned = take(self.settings, self.store)

    def start(self) -> None:
        """Starts running jobs.

        Raises:
            ConflictError: As of `open`.
            StoreError: Likewise.
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
        """Stops the controller, closes the store and gives the data directory back."""
        if self._owned is not None:
            self._owned.close()
            self._owned = None

    def guarded(self) -> bool:
        """Whether callers have to show a key: the server has one, or an API key was ever made."""
        return bool(self.settings.api_key) or self.store.keys.any()

    def submit(
        self,
        spec: JobSpec,
        owner: str = ADMIN,
        idempotency_key: str | None = None,
        sees: str | None = None,
    ) -> Job:
        """Queues a job of this owner's, or returns the one that was submitted under the same key before.

        Args:
            spec: The job.
            owner: Whose it will be.
            idempotency_key: What its owner calls this submission.
            sees: Whose jobs may be its parent; None for anybody's.

        Raises:
            InputError: The spec cannot work; the error names the field.
            ConflictError: The owner used the key for another spec.
            LimitError: The owner has as many queued jobs as one may have.
        """
        if idempotency_key is not None:
            job = self.store.submissions.submitted(spec, owner, idempotency_key)
            if job is not None:
                return job
        job_spec = forked(spec, self.store.seen_by(sees))
        job_spec = self._preflight(job_spec)
        job = self.store.submissions.create_job(
            job_spec, owner, idempotency_key, submitted=spec, most_queued=self.settings.queued_jobs
        )
        self.controller.wake()
        return job

    def export(
        self, id: str, owner: str | None = None, *, share: float | None = None, candidate: int | None = None
    ) -> Job:
        """Queues the export of a candidate of a job, or returns the one that there is already.

        Args:
            id: The job.
            owner: Whose it has to be; None for anybody's.
            share: The best candidate that keeps at most so much.
            candidate: Or the one with this id.

        Raises:
            NotFoundError: There is no such job or candidate.
            ConflictError: The job has not succeeded.
            InputError: Not one of both was given, no candidate is so small, or this one could not be scored.
            LimitError: The owner has as many queued jobs as one may have.
        """
        asked = {"share": share, "candidate": candidate}
        asked = {name: value for name, value in asked.items() if value is not None}
        if len(asked) != 1:
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
            job, export_of(job, found, asked), self.settings.queued_jobs
        )
        self.controller.wake()
        return export

    def estimate(self, spec: JobSpec, sees: str | None = None) -> dict[str, Any]:
        """What a job will need: see `pipeline.estimate`. Makes no job; works without `start`, for caches need no owner.

        Args:
            spec: The job.
            sees: Whose jobs may be its parent; None for anybody's.

        Raises:
            InputError: The spec cannot work; the error names the field.
        """
        make_data_dir(self.settings)
        return self._estimator(forked(spec, self.store.seen_by(sees)))

    def delete(self, id: str, owner: str | None = None) -> None:
        """Deletes a job that has ended and its exports, and then their files.

        Args:
            id: The job.
            owner: Whose it has to be; None for anybody's.

        Raises:
            NotFoundError: There is no such job.
            ConflictError: The job, or one of its exports, has not ended, or somebody has just asked for one more.
        """
        jobs = self.store.seen_by(owner)
        family = [*jobs.exports(id), jobs.job(id)]
        for one in family:
            check_deletable(one.id, one.state)
        for one in family:
            # An export that is gone was deleted by somebody else, who deletes the job, too.
            with suppress(NotFoundError) if one.id != id else nullcontext():
                self.store.submissions.delete_job(one.id, owner)
            cleanup.remove(self.settings.jobs_dir, one.id)

    def artifacts_dir(self, id: str) -> Path:
        """Folder of a job's artifacts; it is there once something was exported."""
        return self.settings.jobs_dir / id / "artifacts"

    def health(self) -> dict[str, Any]:
        """Whether jobs are being run and webhooks sent to, and which jobs: `healthy` and `running_jobs`."""
        sending = self.sender is None or self.sender.alive
        return {
            "healthy": self.controller.alive and sending,
            "running_jobs": self.controller.running_jobs,
        }

    def readiness(self) -> dict[str, bool | None]:
        """What has to work for requests to be worth sending here, and whether it does; None: that is not known yet."""
        return {
            "store": self._store_answers(),
            "controller": self.controller.alive and not self.controller.trouble,
            "ray": self._ray_answers(),
        }

    def _committed(self, job_id: str) -> None:
        self.feed.notify(job_id)
        if self.sender is not None:
            self.sender.wake()

    def _store_answers(self) -> bool:
        try:
            self.store.count_jobs()
        except StoreError as error:
            logger.warning("not ready: %s", error)
            return False
        return True
