"""Size against loss: candidates, finalists, promise, dense models and export."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap

from ranksieve.api.plots.found import Found, Row, loss_of
from ranksieve.api.plots.looks import BAD, FIRST, INK, LAST, SERIES_1, SERIES_2, SOFT, explain, name_axes

GENERATIONS = LinearSegmentedColormap.from_list("generations", [FIRST, LAST])


def draw_sizes(axes: Axes, found: Found) -> None:
    """Draw losses as drops of the task's metric, or in nats before any drop is known."""
    is_drop = found.has_drops
    shown = [one for one in found.candidates if not is_drop or one["drop_points"] is not None]
    points = [(100 * one["kept_share"], one["drop_points"] if is_drop else loss_of(one)) for one in shown]
    name_axes(
        axes,
        "Size against loss",
        "block parameters kept, % (← smaller)",
        f"drop, {found.unit} (↓ better)" if is_drop else "loss, nats (↓ better)",
    )
    if is_drop:
        _rules(axes, found)
    _candidates(axes, points, [one["generation"] for one in shown], len(found.candidates) - len(shown))
    lowest = _lowest(points)
    if len(lowest) > 1:
        label = f"least {'drop' if is_drop else 'loss'} up to this size, search split"
        axes.step(*zip(*lowest, strict=True), where="post", color=SERIES_1, linewidth=1.5, label=label)
    if is_drop:
        _finalists(axes, found)
    explain(axes)


def _rules(axes: Axes, found: Found) -> None:
    """Draw the dense models and the promise, from edge to edge."""
    share, given = found.reference_share, found.given
    reference = "dense" if share == 1 else f"dense with {100 * share:.0f} % of the blocks"
    helped = "" if given is None else " and the same help"
    axes.axhline(0, color=SOFT, label=f"{reference}{helped}: reference of drops")
    if given is not None:
        split, drop = given
        label = f"dense as it was given, {split} split: {drop:+.2f} {found.unit}"
        axes.axhline(drop, color=SOFT, linestyle=":", label=label)
    if found.promise is not None:
        label = f"promised: at most {found.promise:g} {found.unit}"
        axes.axhline(found.promise, color=BAD, linestyle="--", label=label)


def _candidates(
    axes: Axes, points: Sequence[tuple[float, float]], generations: Sequence[int], hidden: int
) -> None:
    """Draw the seeds as squares and later generations as dots, the later the darker."""
    last = max(generations, default=0)
    without = f"; {hidden} more without a drop" if hidden else ""
    numbered = "generation 1" if last == 1 else f"generations 1 to {last}, the later the darker"
    marked = (("s", "seeds, search split", False), ("o", f"{numbered}, search split{without}", True))
    for marker, label, is_later in marked:
        those = [index for index, number in enumerate(generations) if (number > 0) is is_later]
        if those:
            axes.scatter(
                [points[index][0] for index in those],
                [points[index][1] for index in those],
                c=[generations[index] for index in those],
                cmap=GENERATIONS,
                vmin=0,
                vmax=max(1, last),
                marker=marker,
                s=26,
                edgecolors="white",
                linewidths=0.4,
                label=label,
                zorder=2.5,
            )


def _finalists(axes: Axes, found: Found) -> None:
    """Draw the finalists with their intervals, and the export."""
    if found.finalists:
        drops = [one["drop_points"] for one in found.finalists]
        low = [max(0.0, one["drop_points"] - one["drop_low"]) for one in found.finalists]
        high = [max(0.0, one["drop_high"] - one["drop_points"]) for one in found.finalists]
        axes.errorbar(
            [_percent(one) for one in found.finalists],
            drops,
            yerr=[low, high],
            fmt="D",
            color=SERIES_2,
            capsize=3,
            label="finalist on fresh records, with 95 % interval",
        )
    if (exported := found.exported) is not None:
        place = ([_percent(exported)], [exported["drop_points"]])
        axes.plot(*place, "*", color=INK, markersize=14, label="exported", zorder=4)


def _percent(one: Row) -> float:
    return 100 * float(one["kept_share"])


def _lowest(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the points that lower the least height, from left to right."""
    found: list[tuple[float, float]] = []
    for point in points:
        if not found or point[1] < found[-1][1]:
            found.append(point)
    return found
