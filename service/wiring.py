"""Construction of the concrete objects; elsewhere they arrive as arguments."""

from typing import Any

from ranksieve.service.application import Application
from ranksieve.service.job.job import Job
from ranksieve.service.pipeline.estimate import estimate_job
from ranksieve.service.pipeline.materializer import Materializer
from ranksieve.service.pipeline.pipeline import Pipeline
from ranksieve.service.pipeline.steps import on_cluster, settled
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
from ranksieve.workers.machine import devices
from ranksieve.workers.model import hub


def build(settings: Settings) -> Application:
    """Build the service, not started yet.

    The first job joins or starts Ray.
    """
    hub.configure()
    store = Store(settings.store_url)
    cluster = Cluster(settings.ray_address)
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

    def preflight(spec: JobSpec) -> JobSpec:
        spec = on_cluster(spec, cluster)
        return settled(spec, pipeline.check(spec))

    def estimator(spec: JobSpec) -> dict[str, Any]:
        spec = on_cluster(spec, cluster)
        checked = pipeline.check(spec, weights="ignored")
        return estimate_job(settings, settled(spec, checked), checked)

    return Application(
        settings,
        store,
        controller,
        Feed(),
        preflight,
        estimator,
        metrics,
        sender=Sender(store.outbox, HttpPost(settings.webhook_hosts), metrics),
        ray_answers=cluster.answers,
        devices=_devices,
    )


def _devices() -> list[Device]:
    return [Device(kind=kind, name=name, memory_bytes=size) for kind, name, size in devices.present()]
