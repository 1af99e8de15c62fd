"""Breeding: the candidates of a generation, inside the space, on budget and new."""

from collections.abc import Callable, Collection, Container, Sequence
from random import Random

import numpy as np

from ranksieve.search.evolution.operators.crossover import crossover
from ranksieve.search.evolution.operators.mutation import mutate
from ranksieve.search.evolution.operators.removal import removable, removals, remove
from ranksieve.search.evolution.settings import SearchSettings
from ranksieve.search.space.prices import Prices
from ranksieve.search.space.repair import repair
from ranksieve.search.space.sizes import Sizes
from ranksieve.search.space.space import Genome

ATTEMPTS = 5
"""Number of changes tried on a child that is already known."""

SIZE_STEPS = (-1, 0, 0, 1)
"""Steps from the first parent's size to a child's, in a search over many sizes.

All are equally likely.
"""

NEIGHBOURS = 6
"""Number of parents of the nearest sizes that may be mates."""

Scored = tuple[Genome, float]
"""A genome, and its loss in nats or its rank among others.

Smaller is better.
"""


def stream(seed: int, generation: int) -> Random:
    """Return the source of randomness of one generation, independent of all others.

    A generation is thus a function of the seed, its number and its parents, and no state of a generator has to be
    saved.

    Args:
        seed: Seed of the search.
        generation: Number of the generation.

    Source: numpy's `SeedSequence` with a spawn key.
    """
    words = np.random.SeedSequence(seed, spawn_key=(generation,)).generate_state(4, np.uint64)
    return Random(sum(int(word) << 64 * place for place, word in enumerate(words)))


class Operators:
    """Operators of a search, bound to predicted losses and a rng."""

    def __init__(self, prices: Prices, rng: Random) -> None:
        self._prices, self._rng = prices, rng

    def mate(self, first: Genome, second: Genome) -> Genome:
        """Return a child of two parents, of any size."""
        return crossover(self._prices.space, first, second, self._rng)

    def mutate(self, genome: Genome) -> Genome:
        """Return a changed genome, of any size."""
        return mutate(self._prices.space, genome, self._rng)

    def removable(self, genome: Genome) -> bool:
        """Return whether there is a sublayer to remove."""
        return removable(self._prices.space, genome)

    def remove(self, genome: Genome) -> Genome:
        """Return a genome without one of its sublayers."""
        return remove(self._prices, genome, self._rng)

    def removals(self, genome: Genome) -> Sequence[Genome]:
        """Return genomes without one sublayer each, the most promising first."""
        return removals(self._prices, genome)

    def repair(self, genome: Genome, budget: int, *, fixed: Collection[int] = ()) -> Genome:
        """Return a genome on budget, with the genes in `fixed` unchanged."""
        return repair(self._prices, genome, budget, self._rng, fixed=fixed)


class Breeder:
    """Breeder of children by crossover, mutation, removal and repair.

    Args:
        operators: The operators.
        settings: Rates.
        known: Genomes that are scored or about to be.
        rng: The generation's source of randomness.
    """

    def __init__(
        self, operators: Operators, settings: SearchSettings, known: Container[Genome], rng: Random
    ) -> None:
        self._operators, self._settings, self._known, self._rng = operators, settings, known, rng

    def mutants(self, genome: Genome, budget: int, count: int) -> list[Genome]:
        """Return up to `count` new genomes near `genome`.

        Each lacks one sublayer of `genome`. After those come genomes one mutation away.
        """
        removals = iter(self._operators.removals(genome))

        def change(changed: Genome) -> Genome:
            return next(removals, None) or self._operators.mutate(changed)

        return self._fresh(lambda: (genome, budget), change, count, {genome})

    def children(self, parents: Sequence[Scored], budget: int, count: int) -> list[Genome]:
        """Return up to `count` new children of the population.

        Args:
            parents: Genomes and their losses or ranks, smaller is better; at least one.
            budget: Largest cost of a child.
            count: Number of children.

        Returns:
            Distinct unknown genomes; fewer than `count` where the space has no more to offer.
        """
        return self._fresh(lambda: (self._conceive(parents), budget), self._change, count, set())

    def children_of_sizes(self, parents: Sequence[Scored], sizes: Sizes, count: int) -> list[Genome]:
        """Return up to `count` new children of parents of many sizes.

        Each child has its first parent's size or a neighbouring one. Parents of other sizes give their child an
        allocation, not a size: they are brought to the child's size before they mate. Mates are of the nearest sizes.

        Args:
            parents: Genomes and their losses or ranks, smaller is better; at least one.
            sizes: Possible sizes of a child.
            count: Number of children.

        Returns:
            As `children`.
        """

        def conceive() -> tuple[Genome, int]:
            first = self._tournament(parents)
            place = sizes.step(sizes.place(first), self._rng.choice(SIZE_STEPS))
            near = sorted(parents, key=lambda parent: abs(sizes.place(parent[0]) - place))
            pair = first, self._tournament(near[:NEIGHBOURS])
            child = self._operators.mate(*(self._resized(genome, place, sizes) for genome in pair))
            return child, sizes.budget(place)

        return self._fresh(conceive, self._change, count, set())

    def moved(self, sources: Sequence[Genome], budget: int, count: int) -> list[Genome]:
        """Return candidates for a new target.

        These are the sources, repaired to the target, and then children of those.

        Args:
            sources: Genomes of any size, most wanted first; at least one.
            budget: Largest cost of a candidate.
            count: Number of candidates. Half of them, rounded down, are children, and more where sources are few or
                alike.
        """
        repaired = [self._operators.repair(genome, budget) for genome in sources[: (count + 1) // 2]]
        repaired = list(dict.fromkeys(repaired))
        parents = [(genome, 0.0) for genome in repaired]
        spare = max(0, count - len(repaired))
        return repaired + self._fresh(
            lambda: (self._conceive(parents), budget), self._change, spare, set(repaired)
        )

    def _conceive(self, parents: Sequence[Scored]) -> Genome:
        return self._operators.mate(self._tournament(parents), self._tournament(parents))

    def _resized(self, genome: Genome, place: int, sizes: Sizes) -> Genome:
        return genome if sizes.place(genome) == place else self._operators.repair(genome, sizes.budget(place))

    def _tournament(self, parents: Sequence[Scored]) -> Genome:
        rivals = self._rng.choice(parents), self._rng.choice(parents)
        return min(rivals, key=lambda rival: rival[1])[0]

    def _change(self, genome: Genome) -> Genome:
        if self._operators.removable(genome) and self._rng.random() < self._settings.removal_rate:
            return self._operators.remove(genome)
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
