"""Construction of the concrete objects; elsewhere they arrive as arguments."""

from functools import partial

from ranksieve.service.application import Application
from ranksieve.service.pipeline.checking import Checks, estimate_new
from ranksieve.service.pipeline.pipeline import run_job
from ranksieve.service.run.controller import Controller
from ranksieve.service.run.feed import Feed
from ranksieve.service.run.retention import Retention
from ranksieve.service.server.capabilities import Device
from ranksieve.service.server.metrics import Metrics
from ranksieve.service.server.settings import Settings
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
    store = Store(settings.store_url)
    cluster = Cluster(
        settings.ray_address,
        run_limited=run_limited if in_children else run_here,
        shared_folder=settings.cache_dir,
    )
    checks = Checks(settings, cluster)
    metrics = Metrics()
    controller = Controller(
        store,
        partial(run_job, settings, cluster),
        settings.jobs_dir,
        session=cluster,
        running_jobs=settings.running_jobs,
        metrics=metrics,
        tidy=Retention(store, settings.event_retention_days, settings.jobs_dir),
    )

    return Application(
        settings,
        store,
        controller,
        Feed(),
        checks.settle,
        checks.estimate,
        metrics,
        sender=Sender(
            store.outbox, HttpPost(settings.webhook_hosts), metrics, folders=settings.private_folders
        ),
        ray_answers=cluster.answers,
        ray_lacks=cluster.lacks,
        devices=_devices,
    )


def _devices() -> list[Device]:
    return [Device(kind=kind, name=name, memory_bytes=size) for kind, name, size in devices.present()]
