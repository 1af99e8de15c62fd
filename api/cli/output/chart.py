"""Chart of a comparison: the metric by bytes and by tokens/s."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ranksieve.search.errors import InputError
from ranksieve.workers.machine.extras import require_extra

SUFFIXES = (".svg", ".png")
PANELS = (("file_bytes", 1e6, "MB on disk"), ("tokens_per_second", 1.0, "tokens/s"))
"""Field of the horizontal axis of each panel, its unit, and the unit's name."""


def check_chart(path: Path) -> None:
    """Check that a chart can be drawn to a file, before any work starts.

    Raises:
        InputError: The file's suffix is not of a kind of picture, or its folder does not exist.
        InfrastructureError: The library that draws is not installed.
    """
    if path.suffix not in SUFFIXES:
        raise InputError(
            "--output", f"expected a name that ends in {' or '.join(SUFFIXES)}, got {path.name!r}"
        )
    if not path.resolve().parent.is_dir():
        raise InputError("--output", f"no such folder: {path.parent}; create it first")
    require_extra("compare", ["matplotlib"])


def draw(values: Mapping[str, Any], path: Path) -> None:
    """Draw the metric of every rival against its bytes and its speed.

    Args:
        values: See `service.pipeline.compare.compare_rivals`.
        path: File to write.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter

    colors = colormaps["tab20"].colors  # type: ignore[attr-defined]
    figure = Figure(figsize=(11, 5), layout="constrained")
    for axes, (field, unit, label) in zip(figure.subplots(1, 2, sharey=True), PANELS, strict=True):
        for index, one in enumerate(values["rivals"]):
            x, y = one[field] / unit, one["metric"]
            low, high = one["interval"] or (y, y)
            errors = [[max(0.0, y - low)], [max(0.0, high - y)]]
            color = colors[index % len(colors)]
            axes.errorbar(x, y, yerr=errors, fmt="o", color=color, capsize=3, label=one["name"])
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_major_formatter("{x:,g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel(label)
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel(f"{values['metric_name']}, {values['examples']:,} test records")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3)
    figure.savefig(path, dpi=150)
