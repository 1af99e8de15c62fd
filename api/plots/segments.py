"""Best loss so far, in a segment for each size that a search tries."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(kw_only=True, slots=True)
class Segment:
    """Generations in a row at one target size.

    Args:
        target_share: The size, as a share of the dense model's.
        first: Number of the first generation.
        last: Number of the last one.
        held: Whether a model of this size was good enough.
        generations: Numbers of those after which a loss is known.
        losses: Least loss so far at this size after each of `generations`, in nats.
    """

    target_share: float
    first: int
    last: int
    held: bool = False
    generations: list[int] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)


class Segments:
    """Segments of a search, generation by generation.

    Losses of models of different sizes are not compared: each size has a curve of its own, which only falls. A size
    that is tried again goes on where it was.
    """

    def __init__(self) -> None:
        self.all: list[Segment] = []
        self._best: dict[float, float] = {}

    def add(self, record: Mapping[str, Any]) -> None:
        """Take in the record of a finished generation."""
        number, target, loss = record["generation"], record["target_share"], record["loss_nats"]
        if not self.all or self.all[-1].target_share != target:
            self.all.append(Segment(target_share=target, first=number, last=number))
        segment = self.all[-1]
        segment.last = number
        segment.held = segment.held or record["accepted"]
        if loss is not None:
            self._best[target] = min(loss, self._best.get(target, loss))
        if target in self._best:
            segment.generations.append(number)
            segment.losses.append(self._best[target])
