"""The tables a command ends with: a job's dense and sieved model side by side, jobs, an evaluation."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.table import Table

Result = Mapping[str, Any]
_SPLITS = ("confirm", "test")


def result_table(result: Result) -> Table:
    """Dense against sieved, from a job's result.

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


def jobs_table(jobs: Sequence[Mapping[str, Any]]) -> Table:
    """A list of jobs, newest first."""
    table = Table()
    table.add_column("id", no_wrap=True)
    for column in ("name", "state", "created", "error"):
        table.add_column(column, overflow="fold")
    for job in jobs:
        error = job["error"]["message"] if job["error"] else ""
        state = job["state"] + (" (cancelling)" if job["cancel_requested"] and not job["finished_at"] else "")
        table.add_row(job["id"], job["name"], state, str(job["created_at"])[:19].replace("T", " "), error)
    return table


def values_table(values: Mapping[str, Any]) -> Table:
    """Named values, nested ones by their dotted names."""
    table = Table(show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for name, value in _flat(values):
        table.add_row(name, _plain(value))
    return table


def _rows(result: Result) -> Iterator[tuple[str, str, str, str]]:
    dense, best, metric = result["dense"], result["best"], result["metric_name"]
    for key, label in (("block_params", "block parameters"), ("total_params", "total parameters")):
        kept = f"{best[key] / dense[key]:.1%} kept"
        yield label, f"{dense[key]:,}", f"{best[key]:,}", kept
    kept = f"{best['file_bytes'] / dense['file_bytes']:.1%} kept"
    yield "file size, MB", f"{dense['file_bytes'] / 1e6:,.1f}", f"{best['file_bytes'] / 1e6:,.1f}", kept
    for split in _SPLITS:
        yield f"{metric}, {split}", _metric(dense, split), _metric(best, split), _drop(best, split)
    before, after = dense["tokens_per_second"], best["tokens_per_second"]
    yield "tokens/s", f"{before:,.0f}", f"{after:,.0f}", f"{after / before:.2f}x"


def _metric(side: Result, split: str) -> str:
    """A metric with its 95 % interval, where there is one."""
    interval = side.get("interval", {}).get(split)
    value = f"{side['metric'][split]:.3f}"
    return value if interval is None else f"{value} [{interval[0]:.3f}, {interval[1]:.3f}]"


def _drop(best: Result, split: str) -> str:
    drop = best.get("drop_points", {}).get(split)
    if drop is None:
        return ""
    estimate, low, high = drop
    return f"drop {estimate:+.2f} [{low:+.2f}, {high:+.2f}]"


def _caption(result: Result) -> str:
    held = result.get("promise_held")
    verdict = "" if held is None else f"objective {'met' if held else 'NOT met'} on the confirm split; "
    return f"{verdict}drops in points; in brackets 95 % intervals"


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _plain(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.4f}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return str(value)
