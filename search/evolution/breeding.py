"""Makes the candidates of a generation: genomes inside the space, on budget, and new.

Knows neither deap nor how the operators work: they arrive as one object.
"""

from collections.abc import Callable, Collection, Container, Sequence
from random import Random
from typing import Protocol

import numpy as np

from ranksieve.search.evolution.settings import SearchSettings
from ranksieve.search.space.sizes import Sizes
from ranksieve.search.space.space import Genome

ATTEMPTS = 5
"""How often a child that is already known is changed again before it is given up."""

SIZE_STEPS = (-1, 0, 0, 1)
"""From the size of its first parent to a child's, where many sizes are wanted; all equally likely."""

NEIGHBOURS = 6
"""So many parents of the nearest sizes may be mates."""

Scored = tuple[Genome, float]
"""A genome and its loss in nats, or its place among others: smaller is better."""


def stream(seed: int, generation: int) -> Random:
    """The source of randomness of one generation, independent of all others.

    So a generation is a function of the seed, its number and what it is bred from, and no state of a generator has to
    be saved.

    Args:
        seed: Of the search.
        generation: Its number.

    Source: numpy's `SeedSequence` with a spawn key.
    """
    words = np.random.SeedSequence(seed, spawn_key=(generation,)).generate_state(4, np.uint64)
    return Random(sum(int(word) << 64 * place for place, word in enumerate(words)))


class Operators(Protocol):
    """The operators of a search, bound to its space and a rng; deap's Toolbox of `evolution.population` is one."""

    def mate(self, first: Genome, second: Genome, /) -> Genome:
        """A child of two parents, of any size."""

    def mutate(self, genome: Genome, /) -> Genome:
        """A changed genome, of any size."""

    def transfer(self, genome: Genome, /) -> Genome:
        """A changed genome of at most the same size."""

    def removable(self, genome: Genome, /) -> bool:
        """Whether there is a sublayer to remove."""

    def remove(self, genome: Genome, /) -> Genome:
        """A genome without one of its sublayers, where there is any."""

    def removals(self, genome: Genome, /) -> Sequence[Genome]:
        """Genomes without one sublayer each, the most promising first."""

    def repair(self, genome: Genome, budget: int, /, *, fixed: Collection[int] = ()) -> Genome:
        """A genome on budget, the matrices in `fixed` as they were."""


class Breeder:
    """Children by crossover, by mutation, transfer or removal, and by repair.

    Args:
        operators: The operators.
        settings: Rates.
        known: Genomes that are no news: scored, or about to be.
        rng: The generation's source of randomness.
    """

    def __init__(
        self, operators: Operators, settings: SearchSettings, known: Container[Genome], rng: Random
    ) -> None:
        self._operators, self._settings, self._known, self._rng = operators, settings, known, rng

    def mutants(self, genome: Genome, budget: int, count: int) -> list[Genome]:
        """Up to `count` new genomes: without one sublayer of `genome` each, and one transfer away where those end."""
        removals = iter(self._operators.removals(genome))

        def change(changed: Genome) -> Genome:
            return next(removals, None) or self._operators.transfer(changed)

        return self._fresh(lambda: (genome, budget), change, count, {genome})

    def children(self, parents: Sequence[Scored], budget: int, count: int) -> list[Genome]:
        """Up to `count` new children of the population.

        Args:
            parents: Genomes and what they are chosen by, smaller is better; at least one.
            budget: Most parameters a child may keep.
            count: How many.

        Returns:
            Distinct genomes that are news; fewer than `count` where the space has no more to offer.
        """
        return self._fresh(lambda: (self._conceive(parents), budget), self._change, count, set())

    def children_of_sizes(self, parents: Sequence[Scored], sizes: Sizes, count: int) -> list[Genome]:
        """Up to `count` new children of parents of many sizes, each of its first parent's size or one beside it.

        Parents of different sizes give their child an allocation, not a size: they are brought to the child's before
        they mate. Mates are of the nearest sizes.

        Args:
            parents: Genomes and what they are chosen by, smaller is better; at least one.
            sizes: Where a child may be.
            count: How many.

        Returns:
            As `children`.
        """

        def conceive() -> tuple[Genome, int]:
            first = self._tournament(parents)
            place = sizes.step(sizes.place(first), self._rng.choice(SIZE_STEPS))
            child = self._resized(first, place, sizes)
            if self._rng.random() < self._settings.crossover_rate:
                near = sorted(parents, key=lambda parent: abs(sizes.place(parent[0]) - place))
                mate = self._tournament(near[:NEIGHBOURS])
                child = self._operators.mate(child, self._resized(mate, place, sizes))
            return child, sizes.budget(place)

        return self._fresh(conceive, self._change, count, set())

    def moved(self, sources: Sequence[Genome], budget: int, count: int) -> list[Genome]:
        """Candidates for a new target: the sources repaired to it, then children of those.

        Args:
            sources: Genomes of any size, most wanted first; at least one.
            budget: Most parameters a candidate may keep.
            count: How many; half of them, rounded down, are children, and more where sources are few or alike.
        """
        repaired = [self._operators.repair(genome, budget) for genome in sources[: (count + 1) // 2]]
        repaired = list(dict.fromkeys(repaired))
        parents = [(genome, 0.0) for genome in repaired]
        spare = max(0, count - len(repaired))
        return repaired + self._fresh(
            lambda: (self._conceive(parents), budget), self._change, spare, set(repaired)
        )

    def _conceive(self, parents: Sequence[Scored]) -> Genome:
        first = self._tournament(parents)
        if self._rng.random() >= self._settings.crossover_rate:
            return first
        return self._operators.mate(first, self._tournament(parents))

    def _resized(self, genome: Genome, place: int, sizes: Sizes) -> Genome:
        return genome if sizes.place(genome) == place else self._operators.repair(genome, sizes.budget(place))

    def _tournament(self, parents: Sequence[Scored]) -> Genome:
        rivals = self._rng.choice(parents), self._rng.choice(parents)
        return min(rivals, key=lambda rival: rival[1])[0]

    def _change(self, genome: Genome) -> Genome:
        if self._operators.removable(genome) and self._rng.random() < self._settings.removal_rate:
            return self._operators.remove(genome)
        if self._rng.random() < self._settings.transfer_rate:
            return self._operators.transfer(genome)
        return self._operators.mutate(genome)

    def _fresh(
        self,
        conceive: Callable[[], tuple[Genome, int]],
        change: Callable[[Genome], Genome],
        count: int,
        taken: set[Genome],
    ) -> list[Genome]:
        fresh: list[Genome] = []
        for _ in range(count):
            genome, budget = conceive()
            for _ in range(ATTEMPTS):
                changed = change(genome)
                kept_as_changed = [i for i, level in enumerate(changed) if level != genome[i]]
                genome = self._operators.repair(changed, budget, fixed=kept_as_changed)
                if genome not in self._known and genome not in taken:
                    taken.add(genome)
                    fresh.append(genome)
                    break
        return fresh
