"""Best loss so far at the size being tried, generation by generation."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from ranksieve.api.plots.looks import BAD, GOOD, SERIES_1, SMALL, SOFT, explain, name_axes
from ranksieve.api.plots.segments import Segment

MOST_LEVEL = 4
"""Most names of sizes that fit side by side; more of them stand upright."""


def draw_best(axes: Axes, segments: Sequence[Segment], *, has_verdicts: bool, is_over: bool) -> None:
    """Draw a segment for each size, on the ground of its verdict.

    Args:
        axes: Axes of the panel.
        segments: At least one.
        has_verdicts: Whether the search looks for the smallest size that holds a promise.
        is_over: Whether the last size is no longer being tried.
    """
    title = "Best so far at the size being tried"
    name_axes(axes, title, "generation →", "least loss so far, nats (↓ better)")
    label: str | None = "least loss so far at the size of this stretch"
    names = []
    for index, one in enumerate(segments):
        known = has_verdicts and (one.held or is_over or index + 1 < len(segments))
        names.append(f"{100 * one.target_share:.0f} %" + (" held" if one.held else " did not") * known)
        if known:
            axes.axvspan(
                one.first - 0.5, one.last + 0.5, color=GOOD if one.held else BAD, alpha=0.12, linewidth=0
            )
        if one.losses:
            axes.step(
                one.generations, one.losses, "o-", where="post", color=SERIES_1, markersize=4, label=label
            )
            label = None
    borders = [one.first - 0.5 for one in segments[1:]]
    axes.vlines(borders, 0, 1, transform=axes.get_xaxis_transform(), colors=SOFT, linewidth=0.8)
    axes.set_xlim(segments[0].first - 0.5, segments[-1].last + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    top = axes.secondary_xaxis("top")
    top.set_xticks([(one.first + one.last) / 2 for one in segments], names)
    top.tick_params(length=0, labelsize=SMALL, labelrotation=90 if len(segments) > MOST_LEVEL else 0)
    top.spines["top"].set_visible(False)
    explain(axes)
