"""Figures of a job: all panels that it has, or one of them."""

import textwrap
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from matplotlib.axes import Axes

from ranksieve.api.plots.best import draw_best
from ranksieve.api.plots.found import Found, Ranks, Row
from ranksieve.api.plots.looks import Figure, printable
from ranksieve.api.plots.ranks import draw_ranks
from ranksieve.api.plots.rivals import draw_rivals
from ranksieve.api.plots.segments import Segment
from ranksieve.api.plots.sizes import draw_sizes
from ranksieve.service.job.job import JobState

PANEL = (6.0, 5.2)
"""Width and height of a panel with curves, in inches."""
CELL = (0.29, 0.26)
"""Width and height of a matrix in the rank map."""
LONGEST_TITLE = 160


def job_figure(
    job: Row, found: Found, segments: Sequence[Segment], ranks: Ranks | None, compared: Row | None
) -> Figure:
    """Draw the panels that there is something to show in: at least one.

    Args:
        job: The job.
        found: What it has found.
        segments: Segments of its search.
        ranks: Ranks of one of its models, if any.
        compared: Rivals that were scored on its test records, if any; see `service.pipeline.compare.compare_rivals`.
    """
    curves: dict[str, Callable[[Axes], None]] = {}
    if found.candidates or found.finalists:
        curves["sizes"] = partial(draw_sizes, found=found)
    if segments:
        verdicts = job["spec"]["objective"]["kind"] == "max_drop"
        curves["best"] = partial(draw_best, segments=segments, has_verdicts=verdicts, is_over=_is_over(job))
    if compared is not None:
        curves["rivals"] = partial(draw_rivals, compared=compared, result=job["result"])
    rows: list[Any] = [list(curves)] * bool(curves)
    size = [PANEL] * bool(curves)
    if ranks is not None:
        rows.append(["ranks"] * max(1, len(curves)))
        size.append(_map_size(ranks))
    width = max(size[-1][0], PANEL[0] * len(curves))
    heights = [height for _, height in size]
    figure = Figure(figsize=(width, sum(heights) + 0.5), layout="constrained")
    panels = figure.subplot_mosaic(rows, height_ratios=heights)
    for name, draw in curves.items():
        draw(panels[name])
    if ranks is not None:
        draw_ranks(panels["ranks"], ranks)
    figure.suptitle(textwrap.shorten(printable(_title(job, found.unit)), LONGEST_TITLE), parse_math=False)
    return figure


def sizes_figure(found: Found) -> Figure:
    """Draw size against loss alone."""
    figure = Figure(figsize=PANEL, layout="constrained")
    draw_sizes(figure.subplots(), found)
    return figure


def ranks_figure(ranks: Ranks) -> Figure:
    """Draw a rank map alone."""
    figure = Figure(figsize=_map_size(ranks), layout="constrained")
    draw_ranks(figure.subplots(), ranks)
    return figure


def _map_size(ranks: Ranks) -> tuple[float, float]:
    layers, matrices = len(ranks[1]["layers"]), len(ranks[1]["matrices"])
    return max(PANEL[0], 2.6 + CELL[0] * layers), 1.2 + CELL[1] * matrices


def _is_over(job: Row) -> bool:
    state = JobState(job["state"])
    return state.terminal or state in (JobState.CRASHED, JobState.FINALIZING)


def _title(job: Row, unit: str) -> str:
    """Return the job's name with its result, or with its state while it has none."""
    name, result = job["name"] or job["id"], job["result"]
    if not result:
        return f"{name}, {job['state']}"
    best = result["best"]
    title = f"{name}: {100 * best['kept_block_params']:.1f} % of block parameters kept"
    split = next((one for one in ("test", "confirm", "search") if one in best["drop"]), None)
    if split is None:
        return title
    drop = best["drop"][split]
    interval = "" if drop["drop_low"] is None else f" [{drop['drop_low']:+.2f}, {drop['drop_high']:+.2f}]"
    return f"{title}, drop {drop['drop_points']:+.2f}{interval} {unit} on the {split} split"
