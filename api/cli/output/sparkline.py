"""Curve of the best loss so far, in one line of text."""

from collections.abc import Sequence

from ranksieve.api.plots.segments import Segments

BARS = "▁▂▃▄▅▆▇█"
WIDTH = 40
"""Most generations that are shown: the last ones."""


def best_line(segments: Segments) -> str:
    """Return the curve of the size being tried, between its ends in nats.

    Empty before it has two points.
    """
    losses = segments.all[-1].losses if segments.all else []
    if len(losses) < 2:
        return ""
    return f"{losses[0]:.4f} {sparkline(losses[-WIDTH:])} {losses[-1]:.4f} nats"


def sparkline(values: Sequence[float]) -> str:
    """Return a bar for each value, from the least to the largest of them."""
    low, high = min(values), max(values)
    steps = len(BARS) - 1
    return "".join(BARS[round(steps * (value - low) / (high - low)) if high > low else 0] for value in values)
