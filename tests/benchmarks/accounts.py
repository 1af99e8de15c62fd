"""What a campaign compares of a job that was struck with one that was not."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ranksieve.service.job.events import EventType
from ranksieve.service.job.job import Job
from ranksieve.service.store import Store
from ranksieve.workers.cache.manifest import checksum

TIMES = {"seconds", "tokens_per_second"}
PLACES = {"artifact", "parent"}


def account(store: Store, job: Job) -> dict[str, Any]:
    """All that has to be the same: everything but times and places."""
    return {
        "states": job.state,
        "results": lasting(job.result),
        "generations": lasting(store.generations(job.id)),
        "candidates": lasting(store.memo(job.id)),
        "weights": _weights(job.result or {}),
    }


def differences(store: Store, job: Job, expected: Mapping[str, Any]) -> list[str]:
    """What of a job that has ended is not as in an undisturbed run, or was done or told of twice."""
    found = account(store, job)
    wrong = [f"job {job.id}: {name} differ" for name in expected if found[name] != expected[name]]
    scored = [tuple(row["genome"]) for row in found["candidates"]]
    if len(scored) != len(set(scored)):
        wrong.append(f"job {job.id}: scorings are recorded twice")
    events = store.events(job.id, limit=100_000)
    if [event.seq for event in events] != list(range(1, len(events) + 1)):
        wrong.append(f"job {job.id}: events have gaps")
    reported = [e.data["generation"] for e in events if e.type is EventType.GENERATION_COMPLETED]
    if reported != [record["generation"] for record in found["generations"]]:
        wrong.append(f"job {job.id}: generations are told of twice, or not at all")
    return wrong


def _weights(result: Mapping[str, Any]) -> str | None:
    """The hash of the exported weights, where the job exports any."""
    return checksum(Path(result["artifact"]) / "model.safetensors") if "artifact" in result else None


def lasting(value: Any) -> Any:
    """A value without what differs between equal runs: times and places."""
    if isinstance(value, Mapping):
        return {name: lasting(item) for name, item in value.items() if name not in TIMES | PLACES}
    if isinstance(value, list):
        return [lasting(item) for item in value]
    return value
