"""Builds the concrete objects; everywhere else they arrive as arguments."""

from pathlib import Path
from typing import Any

from service.application import Application
from service.capabilities import Device
from service.controller import Controller
from service.demo_assets import DemoAssets, fetch
from service.estimate import estimate_job
from service.evaluation import evaluate_export, sample_choices
from service.feed import Feed
from service.joblog import JobLog
from service.jobs import Job
from service.materializer import Materializer
from service.metrics import Metrics
from service.pipeline import Pipeline
from service.retention import Retention
from service.settings import Settings
from service.spec import JobSpec
from service.store import Store
from service.webhooks.post import HttpPost
from service.webhooks.sender import Sender
from workers import devices, hub
from workers.cluster import Cluster


def build(settings: Settings) -> Application:
    """The service on these settings, not started yet. Ray is joined, or started, by the first job."""
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

    def preflight(spec: JobSpec) -> None:
        pipeline.check(spec)

    def estimator(spec: JobSpec) -> dict[str, Any]:
        return estimate_job(settings, spec, pipeline.check(spec, weights="ignored"))

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


def evaluate(settings: Settings, model_dir: Path, spec: JobSpec, split: str) -> dict[str, Any]:
    """Scores an exported model on one split of a job's task, in this process."""
    return evaluate_export(settings, model_dir, spec, split)


def demo_assets(settings: Settings) -> DemoAssets:
    """The demo's model and data, downloaded once."""
    return fetch(settings.cache_dir)


def sample_answers(settings: Settings, model_dir: Path, spec: JobSpec, count: int) -> list[dict[str, str]]:
    """What an exported model answers to the first prompts of a choice task's test split."""
    return sample_choices(settings, model_dir, spec, count)
