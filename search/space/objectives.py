"""Objectives of a search.

The search minimises the loss at a *target*: a share of the dense cost of the prunable matrices, in parameters, bytes
or time, as the space counts. Most objectives know their target from the start. `search.evolution.schedules` finds the
target of `MaxDrop`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from ranksieve.search.errors import InputError
from ranksieve.search.space.space import SearchSpace


@dataclass(frozen=True, kw_only=True, slots=True)
class MaxDrop:
    """Find the smallest model that loses at most `points` of the task metric."""

    points: float

    def __post_init__(self) -> None:
        if not 0 <= self.points <= 100:
            raise InputError("objective.points", f"must be in [0, 100], got {self.points}")


@dataclass(frozen=True, kw_only=True, slots=True)
class TargetParams:
    """Find the best model that keeps at most `share` of the prunable parameters."""

    share: float

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise InputError("objective.share", f"must be in (0, 1], got {self.share}")

    def target(self, space: SearchSpace) -> float:
        """Return the target share of the space's cost.

        Raises:
            InputError: The constraints of the space keep more than that.
        """
        if not space.reaches(self.share):
            raise InputError(
                "objective.share",
                f"must be at least {_up(space.smallest_share)}, which search.constraints keep of the prunable "
                f"parameters; got {self.share}",
            )
        return self.share


@dataclass(frozen=True, kw_only=True, slots=True)
class TargetBytes:
    """Find the best model whose weight files take at most `size_bytes`.

    The space must count bytes.

    Args:
        size_bytes: Size of the files.
        other_bytes: Size of everything but the prunable matrices.
        field: Where the job file gives the size.
    """

    size_bytes: int
    other_bytes: int
    field: str = "objective.size"

    def target(self, space: SearchSpace) -> float:
        """Return the share of the cost that is left to the prunable matrices.

        Raises:
            InputError: Even the smallest model does not fit, or the dense one does.
        """
        rest = "embeddings, head, norms, biases and everything else that is not pruned"
        return _room(space, self.size_bytes, self.other_bytes, self.field, rest, _bytes)


@dataclass(frozen=True, kw_only=True, slots=True)
class TargetLatency:
    """Find the best model whose forward pass takes at most `nanoseconds`.

    The space must count nanoseconds.

    Args:
        nanoseconds: Time of the whole model.
        other_nanoseconds: Time of everything but the prunable matrices.
        field: Where the job file gives the time.
    """

    nanoseconds: int
    other_nanoseconds: int
    field: str = "objective.milliseconds"

    def target(self, space: SearchSpace) -> float:
        """Return the share of the cost that is left to the prunable matrices.

        Raises:
            InputError: Even the fastest model is too slow, or the dense one is fast enough.
        """
        rest = "embeddings, attention, norms, head and everything else that is not pruned"
        return _room(space, self.nanoseconds, self.other_nanoseconds, self.field, rest, _milliseconds)


@dataclass(frozen=True, kw_only=True, slots=True)
class Pareto:
    """Find the best models of many sizes between two shares of the parameters.

    Args:
        smallest: Share of the smallest model; raised to what constraints keep.
        largest: Share of the largest model.
        sizes: Number of sizes, in even steps.
        finalists: Points of the front to confirm on fresh examples.
        points: The preferred model is the smallest that loses at most this much of the metric.
    """

    smallest: float
    largest: float
    sizes: int
    finalists: int
    points: float

    def __post_init__(self) -> None:
        if not 0 < self.smallest < self.largest <= 1:
            raise InputError(
                "objective.smallest",
                f"must be above 0 and below objective.largest, {self.largest}, which is at most 1; "
                f"got {self.smallest}",
            )
        if self.sizes < 2:
            raise InputError("objective.sizes", f"must be at least 2, got {self.sizes}")
        if self.finalists < 1:
            raise InputError("objective.finalists", f"must be at least 1, got {self.finalists}")
        if not 0 <= self.points <= 100:
            raise InputError("objective.points", f"must be in [0, 100], got {self.points}")

    def target(self, space: SearchSpace) -> float:
        """Return the largest size.

        Raises:
            InputError: The constraints of the space keep more than that.
        """
        if not space.smallest_share < self.largest:
            raise InputError(
                "objective.largest",
                f"must be above {_up(space.smallest_share)}, which search.constraints keep of the prunable "
                f"parameters; got {self.largest}",
            )
        return self.largest


Objective = MaxDrop | TargetParams | TargetBytes | TargetLatency | Pareto


def _room(
    space: SearchSpace, limit: int, other: int, field: str, rest: str, shown: Callable[[int], str]
) -> float:
    """Return the share of the matrices' dense cost that a limit leaves to them.

    Raises:
        InputError: The limit is below the cost of the smallest genome, or not below that of the dense model.
    """
    smallest, dense = space.smallest_cost, space.total_cost
    room = limit - other
    if not smallest <= room < dense:
        raise InputError(
            field,
            f"must be at least {shown(other + smallest)} and less than the dense model's {shown(other + dense)}; "
            f"got {shown(limit)}. The least are {shown(other)} of {rest}, and {shown(smallest)} of matrices, which "
            "search.constraints keep",
        )
    return room / dense


def _up(share: float) -> float:
    """Round a share up to four decimals."""
    return math.ceil(share * 10_000) / 10_000


def _bytes(count: int) -> str:
    return f"{count / 1e6:,.2f} MB ({count:,} bytes)"


def _milliseconds(nanoseconds: int) -> str:
    return f"{nanoseconds / 1e6:,.3f} ms"
