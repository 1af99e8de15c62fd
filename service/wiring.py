"""Construction of the concrete objects; elsewhere they arrive as arguments."""

import threading
from typing import Any

from ranksieve.service.application import Application
from ranksieve.service.job.job import Job
from ranksieve.service.pipeline.materializer import Materializer
from ranksieve.service.pipeline.pipeline import Pipeline
from ranksieve.service.pipeline.steps import on_cluster
from ranksieve.service.pipeline.submission import estimate_new, settled_sizes
from ranksieve.service.run.controller import Controller
from ranksieve.service.run.feed import Feed
from ranksieve.service.run.joblog import JobLog
from ranksieve.service.run.retention import Retention
from ranksieve.service.server.capabilities import Device
from ranksieve.service.server.metrics import Metrics
from ranksieve.service.server.settings import Settings
from ranksieve.service.spec import JobSpec
from ranksieve.service.store import Store
from ranksieve.service.webhooks.post import HttpPost
from ranksieve.service.webhooks.sender import Sender
from ranksieve.workers.cluster.session import Cluster
from ranksieve.workers.machine import devices, limited
from ranksieve.workers.machine.limited import run_here, run_limited


def build(settings: Settings, *, in_children: bool = True) -> Application:
    """Build the service, not started yet.

    The first job joins or starts Ray.

    Args:
        settings: Settings of the server.
        in_children: Whether files of users are read in children with limits, else in this process.
    """
    if in_children:
        limited.start(estimate_new)
    run_check = run_limited if in_children else run_here
    store = Store(settings.store_url)
    cluster = Cluster(settings.ray_address, run_limited=run_check)
    pipeline, materializer = Pipeline(settings, cluster), Materializer(settings, cluster)
    metrics = Metrics()

    def run(job: Job, log: JobLog) -> dict[str, Any]:
        return pipeline(job, log) if job.export is None else materializer(job, log)

    controller = Controller(
        store,
        run,
        settings.jobs_dir,
        session=cluster,
        running_jobs=settings.running_jobs,
        metrics=metrics,
        tidy=Retention(store, settings.event_retention_days, settings.jobs_dir),
    )

    def preflight(spec: JobSpec, cancelled: threading.Event | None) -> JobSpec:
        spec = on_cluster(spec, cluster)
        return spec.with_sizes(
            run_check(settled_sizes, settings.without_secrets(), spec, cancelled=cancelled)
        )

    def estimator(spec: JobSpec, cancelled: threading.Event | None) -> dict[str, Any]:
        return run_check(
            estimate_new, settings.without_secrets(), on_cluster(spec, cluster), cancelled=cancelled
        )

    return Application(
        settings,
        store,
        controller,
        Feed(),
        preflight,
        estimator,
        metrics,
        sender=Sender(
            store.outbox, HttpPost(settings.webhook_hosts), metrics, folders=settings.private_folders
        ),
        ray_answers=cluster.answers,
        devices=_devices,
    )


def _devices() -> list[Device]:
    return [Device(kind=kind, name=name, memory_bytes=size) for kind, name, size in devices.present()]
