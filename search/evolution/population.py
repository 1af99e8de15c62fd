"""The population of a search, in DEAP's containers.

`Population` works at one size after another; it orders members by loss, and equal ones by cost. `FrontPopulation`
holds many sizes at once and orders members as NSGA-II does: by the number of layers of better ones before them in
size and loss, then by the distance of their neighbours (Deb et al. 2002, sections III-A to III-C).

This is the only module that imports deap.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import numpy as np
from deap import base, tools

from ranksieve.search.evolution.breeding import Scored
from ranksieve.search.evolution.outcome import Outcome
from ranksieve.search.space.space import Genome


class LossFitness(base.Fitness):  # type: ignore[misc]  # deap is untyped
    """`Outcome.fitness` in nats, with ties broken by cost; both minimised."""

    weights = (-1.0, -1.0)


class SizeLossFitness(base.Fitness):  # type: ignore[misc]  # deap is untyped
    """Index of a size, and `Outcome.fitness` in nats; both minimised."""

    weights = (-1.0, -1.0)


class Individual(tuple[int, ...]):
    """A genome with its fitness, as DEAP's containers expect it."""

    fitness: LossFitness | SizeLossFitness
    loss_nats: float

    @classmethod
    def of(cls, genome: Sequence[int], fitness: LossFitness | SizeLossFitness, loss_nats: float) -> Self:
        """Return a scored genome."""
        individual = cls(genome)
        individual.fitness, individual.loss_nats = fitness, loss_nats
        return individual

    @property
    def genome(self) -> Genome:
        """The genome as a plain tuple."""
        return tuple(self)

    def to_json(self) -> list[Any]:
        """Return the levels and the loss as plain JSON values."""
        return [list(self), self.loss_nats]


class Population:
    """Genomes that may become parents, best first, and the best ever at the target.

    Args:
        size: Largest number of genomes.
        hall_size: Number of best genomes to remember.
        cost: Function that returns the cost of a genome.
    """

    def __init__(self, size: int, hall_size: int, cost: Callable[[Genome], int]) -> None:
        self._size, self._cost = size, cost
        self._members: list[Individual] = []
        self._hall = self._empty_hall(hall_size)
        self.target_share: float | None = None
        """The size that members were bred for; None for seeds of many sizes."""

    def __bool__(self) -> bool:
        return bool(self._members)

    @property
    def scored(self) -> list[Scored]:
        """Genomes with their losses, smaller is better."""
        return [(individual.genome, individual.loss_nats) for individual in self._members]

    @property
    def genomes(self) -> list[Genome]:
        """Genomes of the members, best first."""
        return [individual.genome for individual in self._members]

    @property
    def hall_of_fame(self) -> list[Genome]:
        """Best genomes ever at the target, lowest loss first."""
        return [individual.genome for individual in self._hall]

    def found(self, seeds: Sequence[Outcome]) -> None:
        """Begin with seeds of many sizes, most wanted first."""
        self._members = [self._individual(seed.genome, seed.fitness) for seed in seeds[: self._size]]

    def join(self, outcomes: Sequence[Outcome], target_share: float) -> None:
        """Keep the best of the members and of newcomers.

        Members that were bred for another size are dropped.

        Args:
            outcomes: Newcomers; at least one, no failures.
            target_share: Size that newcomers were bred for.
        """
        newcomers = [self._individual(outcome.genome, outcome.fitness) for outcome in outcomes]
        if target_share != self.target_share:
            self._members, self.target_share = [], target_share
            self._hall.clear()
        stay = [member for member in self._members if member not in newcomers]
        self._members = self._select(stay + newcomers)
        self._hall.update(newcomers)

    def _empty_hall(self, size: int) -> Any:
        return tools.HallOfFame(size)

    def _individual(self, genome: Sequence[int], loss_nats: float) -> Individual:
        return Individual.of(genome, LossFitness((loss_nats, self._cost(tuple(genome)))), loss_nats)

    def _select(self, candidates: list[Individual]) -> list[Individual]:
        """Return the individuals that stay, best first."""
        chosen: list[Individual] = tools.selBest(candidates, self._size)
        return chosen

    def summary(self) -> dict[str, float]:
        """Return statistics of the members' losses, in nats."""
        losses = [individual.loss_nats for individual in self._members]
        return {
            "loss_min": min(losses),
            "loss_avg": float(np.mean(losses)),
            "loss_max": max(losses),
            "loss_std": float(np.std(losses)),
        }

    def state(self) -> dict[str, Any]:
        """Return the state as plain JSON values for `restore`."""
        return {
            "target_share": self.target_share,
            "members": [individual.to_json() for individual in self._members],
            "hall_of_fame": [individual.to_json() for individual in self._hall],
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore the state that `state` returned."""
        self.target_share = state["target_share"]
        self._members = [self._individual(genome, loss_nats) for genome, loss_nats in state["members"]]
        # the hall puts newcomers before their equals, so it is filled from the back
        for genome, loss_nats in reversed(state["hall_of_fame"]):
            self._hall.insert(self._individual(genome, loss_nats))


class FrontPopulation(Population):
    """Genomes of many sizes that may become parents, and the best ever.

    The best ever are those of every size that no smaller one beats.

    Args:
        size: Largest number of genomes.
        place: Function that returns the index of a genome's size, 0 for the smallest.
    """

    def __init__(self, size: int, place: Callable[[Genome], int]) -> None:
        super().__init__(size, size, place)

    @property
    def scored(self) -> list[Scored]:
        """Genomes with their ranks in the order of NSGA-II."""
        return [(individual.genome, float(place)) for place, individual in enumerate(_crowded(self._members))]

    def _empty_hall(self, size: int) -> Any:
        return tools.ParetoFront()

    def _individual(self, genome: Sequence[int], loss_nats: float) -> Individual:
        return Individual.of(genome, SizeLossFitness((self._cost(tuple(genome)), loss_nats)), loss_nats)

    def _select(self, candidates: list[Individual]) -> list[Individual]:
        return _crowded(tools.selNSGA2(candidates, self._size))


def _crowded(individuals: list[Individual]) -> list[Individual]:
    """Sort by NSGA-II: fronts from the best, in each the most isolated first."""
    ordered: list[Individual] = []
    for front in tools.sortNondominated(individuals, len(individuals)) if individuals else []:
        tools.emo.assignCrowdingDist(front)
        ordered += sorted(front, key=lambda one: -one.fitness.crowding_dist)
    return ordered
