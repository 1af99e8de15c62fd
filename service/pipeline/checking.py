"""Checks of a job before any work: at submission, estimate and start."""

from threading import Event
from typing import Any

from ranksieve.search.errors import InputError
from ranksieve.service.pipeline import plans
from ranksieve.service.pipeline.estimate import estimate_job
from ranksieve.service.pipeline.latency import workload_of
from ranksieve.service.pipeline.search_plan import check_search_plan, require_scorings
from ranksieve.service.server.settings import Settings
from ranksieve.service.spec import JobSpec, TargetLatency
from ranksieve.workers.cluster.nodes import refuse_too_large
from ranksieve.workers.cluster.session import Cluster
from ranksieve.workers.cost.speed import dtype_name
from ranksieve.workers.model import hub
from ranksieve.workers.model.sources import Weights
from ranksieve.workers.preflight import Checked, check


class Checks:
    """Checks and estimates of new jobs.

    Args:
        settings: Settings of the server.
        cluster: The Ray session, which says what there is, and runs what reads files of users.
    """

    def __init__(self, settings: Settings, cluster: Cluster) -> None:
        self._settings = settings
        self._cluster = cluster

    def settle(self, spec: JobSpec, cancelled: Event | None) -> JobSpec:
        """Check a new job; fill in the resources and split sizes that it leaves open.

        Raises:
            InputError: The job cannot work; names the field.
            CancelledError: `cancelled` was set before the check ended.
        """
        spec = on_cluster(spec, self._cluster)
        return spec.with_sizes(self._run(settled_sizes, spec, cancelled))

    def estimate(self, spec: JobSpec, cancelled: Event | None) -> dict[str, Any]:
        """Check and estimate a new job, see `service.pipeline.estimate.estimate_job`.

        Raises:
            InputError: The job cannot work; names the field.
            CancelledError: `cancelled` was set before the check ended.
        """
        estimated: dict[str, Any] = self._run(estimate_new, on_cluster(spec, self._cluster), cancelled)
        return estimated

    def _run(self, function: Any, spec: JobSpec, cancelled: Event | None) -> Any:
        settings = self._settings.without_secrets()
        return self._cluster.run_limited(function, settings, spec, cancelled=cancelled)


def on_cluster(spec: JobSpec, cluster: Cluster) -> JobSpec:
    """Fill in the resources that a job file leaves open, by what the cluster has.

    Raises:
        InputError: This machine holds not one of the job's actors, or the cluster does not answer and was to decide.
    """
    resources, nodes = spec.resources, cluster.nodes()
    if not nodes and None in (resources.actors, resources.gpus_per_actor):
        raise InputError(
            "resources",
            "the cluster does not answer, so its size cannot be chosen from; try again, or give actors and "
            "gpus_per_actor",
        )
    spec = spec.on_cluster(nodes)
    if not cluster.may_grow:
        refuse_too_large(resources.threads_per_actor, spec.resources.gpus, nodes)
    return spec


def settled_sizes(settings: Settings, spec: JobSpec) -> dict[str, int]:
    """Check a new job, and return the size of each split.

    Raises:
        InputError: The job cannot work; names the field.
    """
    checked = check_job(settings, spec, "listed")
    spec = settled(spec, checked)
    require_scorings(spec)
    return {str(split): size for split, size in spec.sizes.items()}


def estimate_new(settings: Settings, spec: JobSpec) -> dict[str, Any]:
    """Check a new job except for the weights of its model, and estimate it.

    Returns:
        See `service.pipeline.estimate.estimate_job`.

    Raises:
        InputError: The job cannot work; names the field.
    """
    checked = check_job(settings, spec, "ignored")
    spec = settled(spec, checked)
    require_scorings(spec)
    return estimate_job(settings, spec, checked)


def check_job(
    settings: Settings, spec: JobSpec, weights: Weights = "fetched", dtype: str | None = None
) -> Checked:
    """Check a spec against the files and the model it names.

    Args:
        settings: Settings of the server.
        spec: The job.
        weights: Where the model's weights must be.
        dtype: Working dtype, in which sizes in bytes are counted; None: that of this node.

    Raises:
        InputError: The job cannot work; names the field.
    """
    hub.configure()
    roots = plans.allowed_roots(settings)
    cache = plans.cache(settings)
    with cache.lease():
        checked = check(
            plans.model_source(spec, roots),
            plans.task_plan(spec),
            plans.data_plan(spec, roots),
            cache,
            weights=weights,
            bits=spec.bits,
        )
    dtype = dtype or dtype_name(spec.model.dtype, spec.resources.device)
    spec = settled(spec, checked)
    check_search_plan(spec, checked.matrices, checked.remainder, dtype, roots)
    if isinstance(spec.objective, TargetLatency):
        workload_of(spec.objective, spec, checked)
    return checked


def settled(spec: JobSpec, checked: Checked) -> JobSpec:
    """Fill in the sizes of the splits that a job file leaves open."""
    return spec.with_sizes({name: len(examples) for name, examples in checked.task.splits.items()})
