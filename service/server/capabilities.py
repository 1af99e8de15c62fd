"""Capabilities of a server: versions, devices, limits, and words of job files."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any, get_args

from ranksieve.service.server.settings import Settings
from ranksieve.service.spec import DtypeName, EffortName, JobSpec, TaskSpec

LIBRARIES = ("ranksieve", "torch", "transformers", "ray", "deap", "numpy", "safetensors")


@dataclass(frozen=True, kw_only=True, slots=True)
class Device:
    """Device that models can run on; `memory_bytes` is None if unknown."""

    kind: str
    name: str
    memory_bytes: int | None


Devices = Callable[[], Sequence[Device]]


def capabilities(settings: Settings, devices: Sequence[Device]) -> dict[str, Any]:
    """Return the capabilities as plain JSON values."""
    objectives = JobSpec.model_fields["objective"].annotation
    return {
        "versions": versions(),
        "devices": [
            {"kind": device.kind, "name": device.name, "memory_bytes": device.memory_bytes}
            for device in devices
        ],
        "limits": {
            "requests_per_second": settings.requests_per_second,
            "queued_jobs": settings.queued_jobs,
            "running_jobs": settings.running_jobs,
            "webhooks": settings.webhooks,
            "event_retention_days": settings.event_retention_days,
            "cache_gib": settings.cache_limit_gib if settings.cache_limit_gib < float("inf") else None,
        },
        "tasks": list(get_args(TaskSpec.model_fields["kind"].annotation)),
        "efforts": list(get_args(EffortName)),
        "dtypes": list(get_args(DtypeName)),
        "objectives": [kind.model_fields["kind"].default for kind in get_args(objectives)],
    }


def versions() -> dict[str, str]:
    """Return the versions of the libraries that results depend on."""
    return {name: version_of(name) for name in LIBRARIES}


def version_of(name: str) -> str:
    """Return the version of a distribution; `0+source` if it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "0+source"
