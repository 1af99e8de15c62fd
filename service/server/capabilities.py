"""Versions of libraries, and devices that models can run on."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

LIBRARIES = ("ranksieve", "torch", "transformers", "ray", "deap", "numpy", "safetensors")


@dataclass(frozen=True, kw_only=True, slots=True)
class Device:
    """Device that models can run on; `memory_bytes` is None if unknown."""

    kind: str
    name: str
    memory_bytes: int | None


Devices = Callable[[], Sequence[Device]]


def versions() -> dict[str, str]:
    """Return the versions of the libraries that results depend on."""
    return {name: version_of(name) for name in LIBRARIES}


def version_of(name: str) -> str:
    """Return the version of a distribution; `0+source` if it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "0+source"
