"""Rank of every matrix of a model, as a map: layers from left to right."""

import math

from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.ticker import PercentFormatter

from ranksieve.api.plots.found import Ranks
from ranksieve.api.plots.looks import FULL, INK, LINE, NONE, name_axes, printable
from ranksieve.search.space.matrix import DENSE

KEPT = LinearSegmentedColormap.from_list("kept", [NONE, FULL]).with_extremes(bad=LINE)
SMALLEST = 6
"""Points of a rank in its cell."""


def draw_ranks(axes: Axes, ranks: Ranks) -> None:
    """Draw the map; each cell has its rank, or a dot where the matrix is dense.

    Args:
        axes: Axes of the panel.
        ranks: Ranks of a model.
    """
    model, found = ranks
    layers, matrices = found["layers"], found["matrices"]
    kept = [
        [math.nan if one is None else one for one in column]
        for column in zip(*found["densities"], strict=True)
    ]
    mesh = axes.pcolormesh(kept, cmap=KEPT, vmin=0, vmax=1, edgecolors="white", linewidth=0.5)
    for column, row_of_ranks in enumerate(found["ranks"]):
        for row, rank in enumerate(row_of_ranks):
            if rank is not None:
                text = "•" if rank == DENSE else str(rank)
                axes.text(column + 0.5, row + 0.5, text, ha="center", va="center", size=SMALLEST, color=INK)
    axes.invert_yaxis()
    axes.set_xticks([column + 0.5 for column in range(len(layers))], [str(layer) for layer in layers])
    axes.set_yticks([row + 0.5 for row in range(len(matrices))], [printable(name) for name in matrices])
    axes.tick_params(length=0)
    for label in axes.get_yticklabels():
        label.set_parse_math(False)
    axes.spines[:].set_visible(False)
    name_axes(axes, f"Ranks of {model}; a dot is a dense matrix", "layer", "")
    bar = axes.get_figure(root=True).colorbar(mesh, ax=axes, fraction=0.03, pad=0.01)  # type: ignore[union-attr]
    bar.set_label("numbers kept, %")
    bar.ax.yaxis.set_major_formatter(PercentFormatter(1, symbol=""))
