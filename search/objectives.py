"""What the user wants, and how it sets the size the search works at.

The search minimises the loss at a *target*: a share of what the prunable matrices cost when dense, in parameters, in
bytes or in time, as the space counts. `FixedTarget` keeps one target. `Ratchet` lowers it whenever the best model at
the target is good enough, and backs off in ever smaller steps when none is: a binary search over sizes whose every
probe is a few generations of evolution. For `Pareto` the target is the largest of all sizes that are searched at once.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from search.errors import InputError
from search.outcome import Outcome
from search.space import Genome, SearchSpace

SEED_SHARES = (0.6, 0.5, 0.45, 0.4, 0.35, 0.3, 0.25, 0.2)
"""Sizes at which the ratchet scores Lagrangian seeds to find where to start, largest first."""

SAFE_SHARE = 0.85
"""First target where even the largest seed loses too much, on the way from the smallest genome to the largest."""

FIRST_STEP = 0.04
SMALLEST_STEP = 0.005


@dataclass(frozen=True, kw_only=True, slots=True)
class MaxDrop:
    """The smallest model that loses at most `points` of the task metric."""

    points: float

    def __post_init__(self) -> None:
        if not 0 <= self.points <= 100:
            raise InputError("objective.points", f"must be in [0, 100], got {self.points}")


@dataclass(frozen=True, kw_only=True, slots=True)
class TargetParams:
    """The best model that keeps at most `share` of the prunable parameters."""

    share: float

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise InputError("objective.share", f"must be in (0, 1], got {self.share}")

    def target(self, space: SearchSpace) -> float:
        """The share of the space's cost that this is.

        Raises:
            InputError: The constraints of the space keep more.
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
    """The best model whose weight files take at most `size_bytes`; for a space that counts bytes.

    Args:
        size_bytes: Of the files.
        other_bytes: What they hold besides the prunable matrices.
        field: Where the job file gives the size.
    """

    size_bytes: int
    other_bytes: int
    field: str = "objective.size"

    def target(self, space: SearchSpace) -> float:
        """The share of the space's cost that this leaves to the prunable matrices.

        Raises:
            InputError: Not even the smallest model fits, or the dense one does.
        """
        rest = "embeddings, head, norms and biases and whatever is not pruned"
        return _room(space, self.size_bytes, self.other_bytes, self.field, rest, _bytes)


@dataclass(frozen=True, kw_only=True, slots=True)
class TargetLatency:
    """The best model whose forward pass takes at most `nanoseconds`; for a space that counts them.

    Args:
        nanoseconds: Of the whole model.
        other_nanoseconds: What it takes besides the prunable matrices.
        field: Where the job file gives the time.
    """

    nanoseconds: int
    other_nanoseconds: int
    field: str = "objective.milliseconds"

    def target(self, space: SearchSpace) -> float:
        """The share of the space's cost that this leaves to the prunable matrices.

        Raises:
            InputError: Not even the fastest model is fast enough, or the dense one is.
        """
        rest = "embeddings, attention, norms, head and whatever is not pruned"
        return _room(space, self.nanoseconds, self.other_nanoseconds, self.field, rest, _milliseconds)


@dataclass(frozen=True, kw_only=True, slots=True)
class Pareto:
    """The best models of many sizes between two shares of the prunable parameters.

    Args:
        smallest: Share of the smallest one; where constraints keep more, theirs.
        largest: Share of the largest one.
        sizes: How many, in even steps.
        finalists: Points of the front to confirm on fresh examples.
        points: The one to prefer is the smallest that loses no more of the metric.
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
        """The largest size.

        Raises:
            InputError: The constraints of the space keep more.
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
    """What a limit on the whole model leaves to its matrices, as a share of their dense cost.

    Raises:
        InputError: Less than the smallest genome costs, or as much as the dense one.
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
    """A share in four decimals that is no smaller."""
    return math.ceil(share * 10_000) / 10_000


def _bytes(count: int) -> str:
    return f"{count / 1e6:,.2f} MB ({count:,} bytes)"


def _milliseconds(nanoseconds: int) -> str:
    return f"{nanoseconds / 1e6:,.3f} ms"


@dataclass(frozen=True, kw_only=True, slots=True)
class Accepted:
    """A genome that was good enough at its size.

    Args:
        share: Share of the prunable parameters it keeps.
        genome: One level per matrix.
    """

    share: float
    genome: Genome


class FixedTarget:
    """The schedule of a size, or a largest one, that is given: that one, until nothing improves.

    Args:
        target: The size, as a share of the dense cost.
        patience: Generations without improvement before it is finished.
    """

    def __init__(self, target: float, *, patience: int) -> None:
        self.target = target
        self.finished = False
        self.accepted: list[Accepted] = []
        self._patience = patience
        self._stalled = 0

    def observe(self, incumbent: Outcome | None, share: float, *, target: float, improved: bool) -> bool:
        """Take in a generation; nothing is ever accepted at a size that is given."""
        del incumbent, share, target
        self._stalled = 0 if improved else self._stalled + 1
        self.finished = self._stalled >= self._patience
        return False

    def state(self) -> dict[str, Any]:
        """As plain JSON values; `restore` takes them back."""
        return {"stalled": self._stalled, "finished": self.finished}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`."""
        self._stalled, self.finished = state["stalled"], state["finished"]


class Ratchet:
    """The schedule of `MaxDrop`: ever smaller sizes while the metric holds.

    Args:
        objective: The drop to stay within.
        patience: Half of it, at least one, is how many generations a target may go without an acceptance.
        smallest: Share that the smallest genome keeps: no target is below.
        largest: Share that the largest genome keeps.
    """

    def __init__(
        self, objective: MaxDrop, *, patience: int, smallest: float = 0.0, largest: float = 1.0
    ) -> None:
        self.points = objective.points
        self.target = smallest + SAFE_SHARE * (largest - smallest)
        self.finished = False
        self.accepted: list[Accepted] = []
        self._stall_limit = max(1, patience // 2)
        self._stalled = 0
        self._floor = largest  # unless constrained, the dense model, which loses nothing
        self._smallest = smallest
        self._step = self._floor - self.target

    def start(self, seeds: Sequence[tuple[float, Outcome | None]]) -> bool:
        """Choose where to start: just below the smallest seed that holds and whose next larger one holds, too.

        One that holds alone may do so by luck, one that fails alone by bad luck: with trained factors a smaller model
        may well be the better one.

        Args:
            seeds: The share each seed keeps and how it scored (None: it did not), largest first.

        Returns:
            Whether any seed was accepted.
        """
        good = [outcome is not None and outcome.within(self.points) for _, outcome in seeds]
        confirmed = [index for index, holds in enumerate(good) if holds and (index == 0 or good[index - 1])]
        for index in range(max(confirmed, default=-1) + 1):
            share, outcome = seeds[index]
            if good[index] and outcome is not None:
                self._accept(share, outcome.genome)
        return bool(self.accepted)

    def observe(self, incumbent: Outcome | None, share: float, *, target: float, improved: bool) -> bool:
        """Take in a generation: accept its target, hold on to it, or back off.

        Generations overlap, so the target may have moved since this one was bred. Bred for more than what holds by now
        it has nothing to prove, and its failure below the present target says nothing of that.

        Args:
            incumbent: The best outcome at its target, if there is one.
            share: The share it keeps.
            target: The size the generation was bred for.
            improved: Unused: progress is an acceptance, nothing less.

        Returns:
            Whether its target was accepted.
        """
        del improved
        if target >= self._floor:
            return False
        if incumbent is not None and incumbent.within(self.points):
            self._accept(share, incumbent.genome)
            return True
        if target < self.target:
            return False
        self._stalled += 1
        if self._stalled >= self._stall_limit:
            self._step /= 2
            self._aim()
        return False

    def _accept(self, share: float, genome: Genome) -> None:
        self.accepted.append(Accepted(share=share, genome=genome))
        self._floor = share
        self._step = min(self._step, FIRST_STEP)
        self._aim()

    def _aim(self) -> None:
        self._stalled = 0
        while self._step >= SMALLEST_STEP and self._floor - self._step <= self._smallest:
            self._step /= 2
        self.finished = self._step < SMALLEST_STEP
        if not self.finished:
            self.target = self._floor - self._step

    def state(self) -> dict[str, Any]:
        """As plain JSON values; `restore` takes them back."""
        return {
            "target": self.target,
            "finished": self.finished,
            "stalled": self._stalled,
            "floor": self._floor,
            "step": self._step,
            "accepted": [[entry.share, list(entry.genome)] for entry in self.accepted],
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`."""
        self.target, self.finished = state["target"], state["finished"]
        self._stalled, self._floor, self._step = state["stalled"], state["floor"], state["step"]
        self.accepted = [Accepted(share=share, genome=tuple(genome)) for share, genome in state["accepted"]]


Schedule = FixedTarget | Ratchet


def schedule_for(objective: Objective, space: SearchSpace, *, patience: int) -> Schedule:
    """The schedule that serves `objective`.

    Args:
        objective: What the user wants.
        space: Says which sizes there are.
        patience: Generations without progress before the search gives up.

    Raises:
        InputError: No genome of the space has the size that is wanted.
    """
    if isinstance(objective, MaxDrop):
        return Ratchet(
            objective, patience=patience, smallest=space.smallest_share, largest=space.largest_share
        )
    return FixedTarget(objective.target(space), patience=patience)
