"""Models beside what could be used instead: the metric by bytes and by tokens/s."""

from collections.abc import Sequence

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullFormatter

from ranksieve.api.plots.found import Row
from ranksieve.api.plots.looks import Figure, explain, name_axes, printable
from ranksieve.workers.types.metrics import METRIC_NAMES

PANELS = (
    ("file_bytes", 1e6, "weight files, MB (← smaller)"),
    ("tokens_per_second", 1.0, "tokens/s (→ better)"),
)
"""Field of the horizontal axis of each panel of a comparison, its unit, and its name."""
MARKERS = "Dosv^<>PXphd"
EXPORTED = "exported"
"""Kind of a job's own model among its rivals."""


def comparison_figure(values: Row) -> Figure:
    """Draw the metric of every rival against its bytes and its speed.

    Args:
        values: See `service.pipeline.compare.compare_rivals`.
    """
    figure = Figure(figsize=(11, 5), layout="constrained")
    for axes, (field, unit, name) in zip(figure.subplots(1, 2, sharey=True), PANELS, strict=True):
        _draw(axes, values["rivals"], field, unit)
        axes.set_xlabel(name)
        axes.grid(alpha=0.3)
    metric = values["metric_name"]
    figure.axes[0].set_ylabel(f"{metric}, {values['examples']:,} test records ({_better(metric)} better)")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3)
    return figure


def draw_rivals(axes: Axes, compared: Row, result: Row) -> None:
    """Draw the metric of every rival, and of a job's model, against its bytes.

    Args:
        axes: Axes of the panel.
        compared: See `service.pipeline.compare.compare_rivals`.
        result: Result of the job, on the same test records.
    """
    field, unit, name = PANELS[0]
    best, metric = result["best"], result["metric_name"]
    own = {
        "kind": EXPORTED,
        "name": "this job's model",
        "file_bytes": best["file_bytes"],
        "metric": best["metric"]["test"],
        "interval": best.get("interval", {}).get("test"),
    }
    _draw(axes, [*compared["rivals"], own], field, unit)
    title = "Size against metric beside rivals"
    name_axes(axes, title, name, f"{metric}, test split ({_better(metric)} better)")
    explain(axes)


def _better(metric: str) -> str:
    return "↓" if metric == METRIC_NAMES["lm"] else "↑"


def _draw(axes: Axes, rivals: Sequence[Row], field: str, unit: float) -> None:
    """Draw one mark for each rival, of a shape and a colour of its own."""
    colors = colormaps["tab20"].colors  # type: ignore[attr-defined]
    for index, one in enumerate(rivals):
        is_own = one["kind"] == EXPORTED
        low, high = one["interval"] or (one["metric"], one["metric"])
        errors = [[max(0.0, one["metric"] - low)], [max(0.0, high - one["metric"])]]
        axes.errorbar(
            one[field] / unit,
            one["metric"],
            yerr=errors,
            fmt="*" if is_own else MARKERS[index % len(MARKERS)],
            markersize=14 if is_own else 6,
            color="black" if is_own else colors[index % len(colors)],
            capsize=3,
            label=printable(one["name"]),
        )
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter("{x:,g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
