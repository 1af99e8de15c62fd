"""Tables of jobs, models, keys, webhooks, estimates, caches and named values."""

import math
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import yaml
from rich.table import Table

from ranksieve.api.cli.output.terminal import plain
from ranksieve.service.server.keys import ApiKey
from ranksieve.workers.cache.folders import GIB, Entry


def jobs_table(jobs: Sequence[Mapping[str, Any]]) -> Table:
    """Build the table of jobs, newest first."""
    table = Table()
    table.add_column("id", no_wrap=True)
    for column in ("name", "state", "created, UTC", "error"):
        table.add_column(column, overflow="fold")
    for job in jobs:
        error = job["error"]["message"] if job["error"] else ""
        created = str(job["created_at"])[:19].replace("T", " ")
        table.add_row(job["id"], plain(job["name"]), _state(job), created, plain(error))
    return table


def models_table(listed: Mapping[str, Any]) -> Table:
    """Build the table of a server's local models, as `model` of a job file names them."""
    caption = None if listed["complete"] else "cut off: there may be more"
    table = Table(caption=caption, caption_justify="left")
    table.add_column("model", overflow="fold")
    table.add_column("architecture")
    table.add_column("weights, GB", justify="right")
    for one in listed["models"]:
        size = f"{one['weight_bytes'] / 1e9:,.2f}"
        table.add_row(plain(_in_yaml(one)), plain(one["architecture"] or ""), size)
    return table


def _in_yaml(model: Mapping[str, Any]) -> str:
    """Return a job file's `model` as one line without terminal control codes."""
    [(kind, name)] = model["model"].items()
    path = model["location"] or name
    printable = path.isprintable()
    return yaml.safe_dump(
        {kind: path},
        default_flow_style=True,
        default_style=None if printable else '"',
        allow_unicode=printable,
        width=math.inf,
    ).strip()


def _state(job: Mapping[str, Any]) -> str:
    """Return a job's state, and a pending cancel or pause."""
    if job["finished_at"]:
        return str(job["state"])
    if job["cancel_requested"]:
        return f"{job['state']} (cancelling)"
    return f"{job['state']} (pausing)" if job["pause_requested"] else str(job["state"])


def keys_table(keys: Sequence[ApiKey]) -> Table:
    """Build the table of API keys, without secrets."""
    table = Table("id", "owner", "scope", "created", "valid until")
    for key in keys:
        until = "revoked" if key.expires_at is None else f"{key.expires_at:%Y-%m-%d %H:%M} UTC"
        table.add_row(key.id, plain(key.owner), key.scope, f"{key.created_at:%Y-%m-%d %H:%M} UTC", until)
    return table


def webhooks_table(webhooks: Sequence[Mapping[str, Any]]) -> Table:
    """Build the table of webhooks, oldest first."""
    table = Table()
    table.add_column("id", no_wrap=True)
    for column in ("url", "states", "enabled", "last delivery, UTC"):
        table.add_column(column, overflow="fold")
    for one in webhooks:
        enabled = "yes" if one["enabled"] else f"no: {one['disabled_reason'] or 'by its user'}"
        delivered = str(one["delivered_at"] or "never")[:19].replace("T", " ")
        table.add_row(one["id"], plain(one["url"]), ", ".join(one["states"]), plain(enabled), delivered)
    return table


def estimate_table(estimate: Mapping[str, Any]) -> Table:
    """Build the table of a job's needs, phase by phase.

    The values come from `service.pipeline.estimate`; times are ranges, memory is the peak.
    """
    table = Table("", title="at most", caption=plain(_estimate_caption(estimate)), caption_justify="left")
    for column in ("tokens", "TFLOP", "host, GB", "GPU, GB", "disk, GB", "time"):
        table.add_column(column, justify="right")
    for phase in estimate["phases"]:
        table.add_row(phase["phase"], *_needs(phase))
    table.add_section()
    table.add_row("total", *_needs(estimate["total"]))
    return table


def cache_table(entries: Sequence[Entry], limit_bytes: float) -> Table:
    """Build the table of cache entries, least recently used first."""
    held = sum(entry.size_bytes for entry in entries)
    caption = f"{held / GIB:.2f} GiB, limit {limit_bytes / GIB:g} GiB"
    table = Table(caption=caption, caption_justify="left")
    table.add_column("entry", overflow="fold")
    table.add_column("GiB", justify="right")
    table.add_column("last use")
    for entry in entries:
        last_use = datetime.fromtimestamp(entry.last_use_ns / 1e9)
        table.add_row(entry.key, f"{entry.size_bytes / GIB:.2f}", f"{last_use:%Y-%m-%d %H:%M}")
    return table


def values_table(values: Mapping[str, Any]) -> Table:
    """Build the table of named values, nested ones by their dotted names."""
    table = Table(show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for name, value in _flat(values):
        table.add_row(plain(name), plain(_formatted(value)))
    return table


def _needs(needs: Mapping[str, Any]) -> tuple[str, ...]:
    sizes = (f"{needs[name] / 1e9:,.1f}" for name in ("host_bytes", "accelerator_bytes", "disk_bytes"))
    time = f"{_duration(needs['seconds_low'])} to {_duration(needs['seconds_high'])}"
    return f"{needs['tokens']:,}", f"{needs['flops'] / 1e12:,.1f}", *sizes, time


def _duration(seconds: float) -> str:
    """Return a duration in the largest unit that it has at least two of."""
    for name, unit in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * unit:
            return f"{seconds / unit:.1f} {name}"
    return f"{seconds:.0f} s"


def _estimate_caption(estimate: Mapping[str, Any]) -> str:
    machine = estimate["machine"]
    basis = "timed now" if machine["measured"] else "from its data sheet"
    lines = [
        f"{machine['name']}, {estimate['model']['dtype']}: {machine['flops_per_second'] / 1e12:,.2f} TFLOP/s, {basis}",
        f"search: at most {estimate['evaluations_at_most']:,} scorings, each as expensive as the dense model; "
        "it may end sooner",
        f"calibration: {estimate['gram_passes']} passes",
        *(f"note: {note}" for note in estimate["notes"]),
    ]
    return "\n".join(lines)


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _formatted(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.4f}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return str(value)
