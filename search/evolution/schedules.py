"""Schedules: the size that the search works at, from generation to generation.

`FixedTarget` keeps one target. `Ratchet` lowers it whenever the best model at the target is good enough, and backs
off in ever smaller steps otherwise. It is a binary search over sizes whose every probe is a few generations of
evolution. For `Pareto` the target is the largest of all sizes that are searched at once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ranksieve.search.evolution.outcome import Outcome
from ranksieve.search.space.objectives import MaxDrop, Objective
from ranksieve.search.space.space import Genome, SearchSpace

SEED_SHARES = (0.9, 0.77, 0.66, 0.57, 0.49, 0.42, 0.36, 0.31, 0.27, 0.23, 0.2, 0.17, 0.14)
"""Sizes at which the ratchet scores seeds to find its start, largest first, as shares of the largest genome.

Each is about 0.86 times the one before. The largest genome keeps less than the dense model if blocks were cut, and
little of it can then be spared: with 0.6 as the largest size, a search for movie reviews began at 0.85, had three
generations to shrink, and ended at 0.77.
"""

SAFE_SHARE = 0.85
"""First target where even the largest seed loses too much.

It is a share of the way from the smallest genome to the largest.
"""

FIRST_STEP, SMALLEST_STEP = 0.04, 0.005
"""First and smallest step of the target, as shares of the largest genome."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Accepted:
    """A genome that was good enough at its size.

    Args:
        share: Share of the prunable parameters that the genome keeps.
        genome: One level per matrix.
    """

    share: float
    genome: Genome


def seed_shares(space: SearchSpace) -> tuple[float, ...]:
    """Return the sizes of a `MaxDrop` search's seeds, largest first.

    They are shares of the dense cost.
    """
    return tuple(part * space.largest_share for part in SEED_SHARES)


class FixedTarget:
    """Schedule of a given size, or of a given largest size.

    The size stays until nothing improves.

    Args:
        target: Size as a share of the dense cost.
        patience: Generations without improvement before it is finished.
    """

    def __init__(self, target: float, *, patience: int) -> None:
        self.target = target
        self.finished = False
        self.accepted: list[Accepted] = []
        self._patience = patience
        self._stalled = 0

    def observe(self, incumbent: Outcome | None, share: float, *, target: float, improved: bool) -> bool:
        """Take in a generation; nothing is ever accepted at a given size."""
        del incumbent, share, target
        self._stalled = 0 if improved else self._stalled + 1
        self.finished = self._stalled >= self._patience
        return False

    def state(self) -> dict[str, Any]:
        """Return the state as plain JSON values for `restore`."""
        return {"stalled": self._stalled, "finished": self.finished}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore the state that `state` returned."""
        self._stalled, self.finished = state["stalled"], state["finished"]


class Ratchet:
    """Schedule of `MaxDrop`: ever smaller sizes while the metric holds.

    Args:
        objective: Objective with the largest allowed drop.
        patience: Half of it, at least one, is the number of generations that a target may go without an acceptance.
        smallest: Share that the smallest genome keeps, the lower bound of targets.
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
        self._floor = largest  # without constraints the dense model, which loses nothing
        self._smallest, self._largest = smallest, largest
        self._step = self._floor - self.target

    def start(self, seeds: Sequence[tuple[float, Outcome | None]]) -> bool:
        """Choose where to start by the outcomes of seeds.

        The start is just below the smallest seed that holds and whose next larger one holds, too. A seed that holds
        alone may do so by luck, and one that fails alone may fail by bad luck: with trained factors a smaller model
        may well be the better one.

        Args:
            seeds: Kept share and outcome (None if not scored) of each seed, largest first.

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
        """Take in a generation: accept its target, keep it, or back off.

        Generations overlap, so the target may have moved since this one was bred. A generation bred for a larger size
        than the accepted one has nothing to prove. Its failure below the present target says nothing about that
        target.

        Args:
            incumbent: Best outcome at the generation's target, if any.
            share: Share that the incumbent keeps.
            target: Size that the generation was bred for.
            improved: Unused, as only an acceptance is progress.

        Returns:
            Whether the target was accepted.
        """
        del improved
        if target >= self._floor:
            return False
        if incumbent is not None and self.take(incumbent, share):
            return True
        if target < self.target:
            return False
        self._stalled += 1
        if self._stalled >= self._stall_limit:
            self._step /= 2
            self._aim()
        return False

    def take(self, outcome: Outcome, share: float) -> bool:
        """Accept a genome if it is good enough and smaller than all before it.

        Return whether it was accepted.
        """
        good = share < self._floor and outcome.within(self.points)
        if good:
            self._accept(share, outcome.genome)
        return good

    def _accept(self, share: float, genome: Genome) -> None:
        self.accepted.append(Accepted(share=share, genome=genome))
        self._floor = share
        self._step = min(self._step, FIRST_STEP * self._largest)
        self._aim()

    def _aim(self) -> None:
        self._stalled = 0
        least = SMALLEST_STEP * self._largest
        while self._step >= least and self._floor - self._step <= self._smallest:
            self._step /= 2
        self.finished = self._step < least
        if not self.finished:
            self.target = self._floor - self._step

    def state(self) -> dict[str, Any]:
        """Return the state as plain JSON values for `restore`."""
        return {
            "target": self.target,
            "finished": self.finished,
            "stalled": self._stalled,
            "floor": self._floor,
            "step": self._step,
            "accepted": [[entry.share, list(entry.genome)] for entry in self.accepted],
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore the state that `state` returned."""
        self.target, self.finished = state["target"], state["finished"]
        self._stalled, self._floor, self._step = state["stalled"], state["floor"], state["step"]
        self.accepted = [Accepted(share=share, genome=tuple(genome)) for share, genome in state["accepted"]]


Schedule = FixedTarget | Ratchet


def schedule_for(objective: Objective, space: SearchSpace, *, patience: int) -> Schedule:
    """Return the schedule that serves `objective`.

    Args:
        objective: Objective of the search.
        space: Search space with the possible sizes.
        patience: Generations without progress before the search gives up.

    Raises:
        InputError: No genome of the space has the wanted size.
    """
    if isinstance(objective, MaxDrop):
        return Ratchet(
            objective, patience=patience, smallest=space.smallest_share, largest=space.largest_share
        )
    return FixedTarget(objective.target(space), patience=patience)
