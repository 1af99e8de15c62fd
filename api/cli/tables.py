"""Tables of the commands: results, jobs, models, keys, webhooks, estimates, cache."""

import math
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import yaml
from rich.table import Table

from ranksieve.api.cli.terminal import plain
from ranksieve.service.server.keys import ApiKey
from ranksieve.workers.cache.folders import GIB, Entry
from ranksieve.workers.types.metrics import drop_unit

Result = Mapping[str, Any]
_SPLITS = ("confirm", "test")
_OF_EXPORTS = ("search", *_SPLITS)


def result_table(result: Result) -> Table:
    """Build the table of dense against sieved, from a job's result.

    Args:
        result: `job.result`: `metric_name`, `dense` and `best`.

    Returns:
        Rows of parameters, bytes, metric on confirm and test with its 95 % interval, and tokens/s.
    """
    table = Table("", title="dense and sieved", caption=_caption(result), caption_justify="left")
    for column in ("dense", "sieved", "change"):
        table.add_column(column, justify="right")
    for row in _rows(result):
        table.add_row(*row)
    return table


def finalists_table(result: Result) -> Table:
    """Build the table of a job's finalists on the confirm split, from its result.

    The risk, not the interval, decides which finalist passed: see `service.pipeline.confirmation`.
    """
    finalists, metric = result["finalists"], result["metric_name"]
    promised = any(one.get("risk") is not None for one in finalists)
    columns = ("risk", "passed") if promised else ()
    table = Table(
        "kept",
        metric,
        f"drop, {drop_unit(metric)}",
        *columns,
        "",
        title="finalists, confirm split",
    )
    for one in finalists:
        row = [f"{one['kept_share']:.1%}", f"{one['metric']:.3f}", _interval(one)]
        if promised:
            row += [f"{one['risk']:.3g}", "yes" if one["passed"] else "no"]
        table.add_row(*row, "exported" if one["genome"] == result["genome"] else "")
    return table


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


def _rows(result: Result) -> Iterator[tuple[str, str, str, str]]:
    dense, best, metric = result["dense"], result["best"], result["metric_name"]
    for key, label in (("block_params", "block parameters"), ("total_params", "total parameters")):
        kept = f"{best[key] / dense[key]:.1%} kept"
        yield label, f"{dense[key]:,}", f"{best[key]:,}", kept
    kept = f"{best['file_bytes'] / dense['file_bytes']:.1%} kept"
    yield "file size, MB", f"{dense['file_bytes'] / 1e6:,.1f}", f"{best['file_bytes'] / 1e6:,.1f}", kept
    reference = result.get("reference", dense)
    for split in _OF_EXPORTS if "export" in result else _SPLITS:
        if split in best["metric"]:
            yield f"{metric}, {split}", _metric(dense, split), _metric(best, split), _drop(best, split)
            if _metric(reference, split) != _metric(dense, split):
                yield "  dense with the same help", _metric(reference, split), "", ""
    before, after = dense["tokens_per_second"], best["tokens_per_second"]
    yield "tokens/s", f"{before:,.0f}", f"{after:,.0f}", f"{after / before:.2f}x"
    if latency := result.get("latency"):
        yield _latency(latency)


def _latency(latency: Mapping[str, Any]) -> tuple[str, str, str, str]:
    """Return the row of the timed forward pass, with its expected change."""
    workload = latency["workload"]
    label = f"{workload['kind']} of {workload['rows']} x {workload['length']}, ms"
    change = f"{latency['measured_share']:.1%}, {latency['expected_share']:.1%} expected"
    return label, f"{latency['measured_dense_ms']:,.1f}", f"{latency['measured_ms']:,.1f}", change


def _metric(side: Result, split: str) -> str:
    """Return a metric with its 95 % interval, if there is one."""
    interval = side.get("interval", {}).get(split)
    if split not in side["metric"]:
        return ""
    value = f"{side['metric'][split]:.3f}"
    return value if interval is None else f"{value} [{interval[0]:.3f}, {interval[1]:.3f}]"


def _drop(best: Result, split: str) -> str:
    drop = best["drop"].get(split)
    return "" if drop is None else f"drop {_interval(drop)}"


def _interval(drop: Mapping[str, Any]) -> str:
    """Return a drop with its interval, if it has one."""
    interval = "" if drop["drop_low"] is None else f" [{drop['drop_low']:+.2f}, {drop['drop_high']:+.2f}]"
    return f"{drop['drop_points']:+.2f}{interval}"


def _caption(result: Result) -> str:
    return "\n".join(_facts(result))


def _facts(result: Result) -> Iterator[str]:
    """Yield whether the objective is met and the unit of drops, then a line per note."""
    held, epochs = result.get("promise_held"), result.get("train_epochs", 0)
    where = " on the confirm split" if result["objective"]["kind"] in ("max_drop", "pareto") else ""
    verdict = "" if held is None else f"objective {'met' if held else 'NOT met'}{where}; "
    yield f"{verdict}drops in {drop_unit(result['metric_name'])}; in brackets 95 % intervals"
    yield f"drops are from the dense model with the same help: {helped_by(result)}"
    if epochs:
        times = f"{epochs} {'epoch' if epochs == 1 else 'epochs'}"
        yield f"the sieved model's factors were trained for {times}"
    if left_out := result["best"].get("left_out_params"):
        yield f"{left_out:,} parameters that the search counted are left out: their sublayers have no output any more"
    if "export" in result:
        yield _measured_on(result["export"])
    if held is False:
        yield from (f"note: {note}" for note in result.get("notes", ()))


def helped_by(result: Result) -> str:
    """Return what the model that drops are measured against has had from the labels."""
    reference = result["reference"]
    if reference["tuned"]:
        blocks, of = reference["blocks"]
        kept = f"its first {blocks} of {of} blocks" if blocks < of else "all its blocks"
        return f"{kept}, tuned on the calibration split"
    if all(
        reference["metric"].get(split) in (None, metric)
        for split, metric in result["dense"]["metric"].items()
    ):
        return "none helps it"
    return "one number added to each answer"


def _measured_on(export: Mapping[str, Any]) -> str:
    """Return the splits that an export's numbers were measured on."""
    splits = " and ".join(export["measured_on"])
    chosen = "; the candidate was chosen on the search split, which flatters it" if splits == "search" else ""
    return f"measured on {splits}{chosen}; the test split was not touched"


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
