"""Makes the candidates of a generation: genomes inside the space, on budget, and new.

Knows neither deap nor how the operators work: they arrive as one object.
"""

from collections.abc import Callable, Collection, Container, Sequence
from random import Random
from typing import Protocol

import numpy as np

from search.settings import SearchSettings
from search.space import Genome

ATTEMPTS = 5
"""How often a child that is already known is changed again before it is given up."""

Scored = tuple[Genome, float]
"""A genome and its loss in nats."""


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
    """The operators of a search, bound to its space and a rng; deap's Toolbox of `search.population` is one."""

    def mate(self, first: Genome, second: Genome, /) -> Genome:
        """A child of two parents, of any size."""

    def mutate(self, genome: Genome, /) -> Genome:
        """A changed genome, of any size."""

    def transfer(self, genome: Genome, /) -> Genome:
        """A changed genome of at most the same size."""

    def repair(self, genome: Genome, budget: int, /, *, fixed: Collection[int] = ()) -> Genome:
        """A genome on budget, the matrices in `fixed` as they were."""


class Breeder:
    """Children by crossover, by mutation or transfer, and by repair.

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
        """Up to `count` new genomes one transfer away from `genome`."""
        return self._fresh(lambda: genome, self._operators.transfer, budget, count, {genome})

    def children(self, parents: Sequence[Scored], budget: int, count: int) -> list[Genome]:
        """Up to `count` new children of the population.

        Args:
            parents: Genomes and their fitness, smaller is better; at least one.
            budget: Most parameters a child may keep.
            count: How many.

        Returns:
            Distinct genomes that are news; fewer than `count` where the space has no more to offer.
        """
        return self._fresh(lambda: self._conceive(parents), self._change, budget, count, set())

    def moved(self, sources: Sequence[Genome], budget: int, count: int) -> list[Genome]:
        """Candidates for a new target: the sources repaired to it, then children of those.

        Args:
            sources: Genomes of any size, most wanted first; at least one.
            budget: Most parameters a candidate may keep.
            count: How many; at least half of them are children.
        """
        repaired = [self._operators.repair(genome, budget) for genome in sources[: (count + 1) // 2]]
        repaired = list(dict.fromkeys(repaired))
        parents = [(genome, 0.0) for genome in repaired]
        spare = max(0, count - len(repaired))
        return repaired + self._fresh(
            lambda: self._conceive(parents), self._change, budget, spare, set(repaired)
        )

    def _conceive(self, parents: Sequence[Scored]) -> Genome:
        first = self._tournament(parents)
        if self._rng.random() >= self._settings.crossover_rate:
            return first
        return self._operators.mate(first, self._tournament(parents))

    def _tournament(self, parents: Sequence[Scored]) -> Genome:
        rivals = self._rng.choice(parents), self._rng.choice(parents)
        return min(rivals, key=lambda rival: rival[1])[0]

    def _change(self, genome: Genome) -> Genome:
        if self._rng.random() < self._settings.transfer_rate:
            return self._operators.transfer(genome)
        return self._operators.mutate(genome)

    def _fresh(
        self,
        conceive: Callable[[], Genome],
        change: Callable[[Genome], Genome],
        budget: int,
        count: int,
        taken: set[Genome],
    ) -> list[Genome]:
        fresh: list[Genome] = []
        for _ in range(count):
            genome = conceive()
            for _ in range(ATTEMPTS):
                changed = change(genome)
                kept_as_changed = [i for i, level in enumerate(changed) if level != genome[i]]
                genome = self._operators.repair(changed, budget, fixed=kept_as_changed)
                if genome not in self._known and genome not in taken:
                    taken.add(genome)
                    fresh.append(genome)
                    break
        return fresh
