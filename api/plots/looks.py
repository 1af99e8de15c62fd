"""Looks that all figures share: the page's colours in its light theme, and axes."""

import io

from matplotlib import figure
from matplotlib.axes import Axes

INK, SOFT, LINE = "#17212b", "#5d6b76", "#d9e0e5"
GOOD, BAD = "#2b7a3d", "#b02a37"
SERIES_1, SERIES_2 = "#0b7285", "#b35c00"
FIRST, LAST = "#9fc5d4", "#0b4f6c"
"""First and last generation of a search."""
NONE, FULL = "#ffffff", "#58a7b6"
"""Matrix that keeps nothing, and one that keeps all."""

SMALL = 8
"""Points of legends and of other small print."""


class Figure(figure.Figure):
    """Figure that belongs to no display; a notebook shows it as a picture."""

    def _repr_png_(self) -> bytes:
        picture = io.BytesIO()
        self.savefig(picture, format="png")
        return picture.getvalue()


def name_axes(axes: Axes, title: str, x: str, y: str) -> None:
    """Write a panel's title and the names of its axes."""
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold", color=INK)
    axes.set_xlabel(x)
    axes.set_ylabel(y)


def explain(axes: Axes) -> None:
    """Draw a grid, and a legend below the axes."""
    axes.grid(color=LINE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="upper left", bbox_to_anchor=(0, -0.16), frameon=False, fontsize=SMALL, borderaxespad=0)


def printable(text: str) -> str:
    """Return somebody else's text without characters that cannot be drawn."""
    return "".join(character if character.isprintable() else "\ufffd" for character in text)
