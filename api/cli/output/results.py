"""Tables of a finished job: dense against sieved, and its finalists."""

from collections.abc import Iterator, Mapping
from typing import Any

from rich.table import Table

from ranksieve.workers.types.metrics import drop_unit

Result = Mapping[str, Any]
_SPLITS = ("confirm", "test")
_OF_EXPORTS = ("search", *_SPLITS)


def result_tables(result: dict[str, Any]) -> list[Table]:
    """Build the tables of a finished job, of the finalists too if there is a front."""
    front = result["objective"]["kind"] == "pareto" and "export" not in result
    return [*([finalists_table(result)] if front else []), result_table(result)]


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
