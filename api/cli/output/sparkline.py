"""Curve of the best loss so far, in one line of text."""

from collections.abc import Mapping, Sequence
from typing import Any

BARS = "▁▂▃▄▅▆▇█"
WIDTH = 40
"""Most generations that are shown: the last ones."""


class BestLoss:
    """Least loss so far at the size being tried.

    Losses of models of different sizes are not compared: a new size starts anew.
    """

    def __init__(self) -> None:
        self._target: float | None = None
        self._best: list[float] = []

    def add(self, generation: Mapping[str, Any]) -> None:
        """Take in the record of a finished generation."""
        if generation["target_share"] != self._target:
            self._target, self._best = generation["target_share"], []
        loss = generation.get("loss_nats")
        if loss is not None:
            self._best.append(min([loss, *self._best[-1:]]))

    def line(self) -> str:
        """Return the curve between its ends in nats; empty before it has two points."""
        if len(self._best) < 2:
            return ""
        first, last = self._best[0], self._best[-1]
        return f"{first:.4f} {sparkline(self._best[-WIDTH:])} {last:.4f} nats"


def sparkline(values: Sequence[float]) -> str:
    """Return a bar for each value, from the least to the largest of them."""
    low, high = min(values), max(values)
    steps = len(BARS) - 1
    return "".join(BARS[round(steps * (value - low) / (high - low)) if high > low else 0] for value in values)
