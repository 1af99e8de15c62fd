"""Packing of actors on nodes, by the same rules as Ray.

Whatever is checked, promised or divided is packed here, so that no actor is counted that Ray cannot place. Knows
nothing of Ray.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

Amounts = Mapping[str, int]
"""Resource → amount in the smallest unit that Ray knows.

Whole numbers, so that sums are exact.
"""

UNITS = 10_000

Name = TypeVar("Name")

GPU = "GPU"
"""Resource that a node has as single pieces: a part of one comes from one piece."""


def amounts(**resources: float) -> dict[str, int]:
    """Return the amounts of resources of an actor or a node.

    Resources of amount zero are left out.
    """
    counted = {name: round(UNITS * value) for name, value in resources.items()}
    return {name: units for name, units in counted.items() if units}


def node_amounts(nodes: Mapping[Name, Mapping[str, float]]) -> dict[Name, Amounts]:
    """Return the processors and GPUs of each node, by Ray's names."""
    return {name: amounts(CPU=node.get("CPU", 0), GPU=node.get("GPU", 0)) for name, node in nodes.items()}


@dataclass(frozen=True, slots=True)
class Place:
    """Room of one actor: a node, and which of its GPUs."""

    node: str
    gpus: tuple[int, ...] = ()


class Room:
    """What is free on one node.

    Args:
        name: Name of the node.
        node: Its resources.
    """

    def __init__(self, name: str, node: Amounts) -> None:
        self.name = name
        self._node = node
        self._free = {resource: units for resource, units in node.items() if resource != GPU}
        self._gpus = [UNITS] * (node.get(GPU, 0) // UNITS)

    def fits(self, size: Amounts) -> bool:
        """Return whether one more actor of this size fits."""
        others = all(units <= self._free.get(name, 0) for name, units in size.items() if name != GPU)
        return others and self._choose_gpus(size) is not None

    def take(self, size: Amounts) -> Place | None:
        """Take the room of one actor; None if it does not fit."""
        if not self.fits(size):
            return None
        place = Place(self.name, self._choose_gpus(size) or ())
        self.occupy(size, place)
        return place

    def occupy(self, size: Amounts, place: Place, actors: int = 1) -> None:
        """Take a known place; -1 actors give it back."""
        for name, units in size.items():
            if name != GPU:
                self._free[name] = self._free.get(name, 0) - actors * units
        for gpu in place.gpus:
            self._gpus[gpu] -= actors * min(UNITS, size[GPU])

    def preference(self, size: Amounts) -> tuple[bool, float]:
        """Return a key that is least for the best of the nodes where an actor fits.

        Small actors are spread, those of several GPUs packed, so that whole nodes stay free for others of these.
        Nodes with GPUs come last for actors that need none.
        """
        share = min((self._share(name) for name in size), default=1.0)
        return bool(self._gpus) and GPU not in size, share if size.get(GPU, 0) > UNITS else -share

    def _share(self, name: str) -> float:
        """Return the free share of a resource."""
        free = sum(self._gpus) if name == GPU else self._free.get(name, 0)
        return free / max(1, self._node.get(name, 0))

    def _choose_gpus(self, size: Amounts) -> tuple[int, ...] | None:
        """Return GPUs for an actor; None if there are not enough.

        Whole ones must be free; a part comes from the GPU with the least left.
        """
        units = size.get(GPU, 0)
        if 0 < units < UNITS:
            fitting = [(left, gpu) for gpu, left in enumerate(self._gpus) if left >= units]
            return (min(fitting)[1],) if fitting else None
        free = [gpu for gpu, left in enumerate(self._gpus) if left == UNITS][: units // UNITS]
        return tuple(free) if len(free) == units // UNITS else None


def places(size: Amounts, nodes: Mapping[Name, Amounts], most: int) -> int:
    """Return how many actors of one size fit on empty nodes, up to `most`."""
    count = 0
    for room in (Room("", node) for node in nodes.values()):
        while count < most and room.take(size) is not None:
            count += 1
    return count
