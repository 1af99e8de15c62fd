"""Checks and estimates of new jobs, which can run in a child with limits."""

from typing import Any

from ranksieve.service.pipeline.estimate import estimate_job
from ranksieve.service.pipeline.search_plan import require_scorings
from ranksieve.service.pipeline.steps import check_job, settled
from ranksieve.service.server.settings import Settings
from ranksieve.service.spec import JobSpec
from ranksieve.workers.model.sources import Weights
from ranksieve.workers.preflight import Checked


def settled_sizes(settings: Settings, spec: JobSpec) -> dict[str, int]:
    """Check a new job, and return the size of each split.

    Raises:
        InputError: The job cannot work; names the field.
    """
    spec, _ = _checked(settings, spec, "listed")
    return {str(split): size for split, size in spec.sizes.items()}


def estimate_new(settings: Settings, spec: JobSpec) -> dict[str, Any]:
    """Check a new job except for the weights of its model, and estimate it.

    Returns:
        See `service.pipeline.estimate.estimate_job`.

    Raises:
        InputError: The job cannot work; names the field.
    """
    spec, checked = _checked(settings, spec, "ignored")
    return estimate_job(settings, spec, checked)


def _checked(settings: Settings, spec: JobSpec, weights: Weights) -> tuple[JobSpec, Checked]:
    checked = check_job(settings, spec, weights)
    spec = settled(spec, checked)
    require_scorings(spec)
    return spec, checked
