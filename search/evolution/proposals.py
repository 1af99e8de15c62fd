"""Candidates of a generation: seeds first, children later, both at new targets."""

from collections.abc import Sequence
from dataclasses import dataclass

from ranksieve.search.evolution.breeding import Breeder, Scored
from ranksieve.search.evolution.schedules import Ratchet, Schedule, seed_shares
from ranksieve.search.evolution.settings import SearchSettings
from ranksieve.search.space.prices import Prices
from ranksieve.search.space.sizes import Sizes
from ranksieve.search.space.space import Genome, SearchSpace
from ranksieve.search.start.seeds import cheapest, fitted, uniform

TARGET_SEEDS = 2
"""Seeds at one size: the Lagrangian genome and the uniform one.

All others are additional.
"""

ABOVE = 0.05
"""Share of the dense cost by which a user's genome may be smaller than a size and stay as it is.

A genome of 0.27 that lost 0.0337 nats lost 0.0466 when it was enlarged to 0.29.
"""


@dataclass(frozen=True, kw_only=True)
class Proposer:
    """Source of the candidates of every kind of generation.

    Args:
        prices: Predicted losses, over the space of all genomes.
        schedule: Schedule that sets the target size.
        settings: Sizes of populations and offspring.
        given: Additional genomes given by the user, of any size, to start from.
    """

    prices: Prices
    schedule: Schedule
    settings: SearchSettings
    given: Sequence[Genome] = ()

    @property
    def space(self) -> SearchSpace:
        """Space of all genomes."""
        return self.prices.space

    @property
    def budget(self) -> int:
        """Largest cost of a candidate at the present target."""
        return self.space.budget(self.schedule.target)

    def seeds(self, breeder: Breeder) -> list[Genome]:
        """Return the candidates of generation 0.

        These are seeds of many sizes, or seeds of the one target size and mutants of the first.
        """
        if isinstance(self.schedule, Ratchet):
            return [*map(self.seed, seed_shares(self.space)), *self.given]
        target = self.schedule.target
        given = [self._brought(genome, target) for genome in self.given]
        seeds = list(dict.fromkeys([self.origin, uniform(self.space, target), *given]))
        mutants = max(0, self.settings.population - len(seeds))
        return seeds + breeder.mutants(seeds[0], self.budget, mutants)

    def seed(self, share: float) -> Genome:
        """Return the first guess at a size."""
        return cheapest(self.prices, share)

    @property
    def origin(self) -> Genome:
        """Genome that a search at one size starts from; no scoring has chosen it."""
        return self.seed(self.schedule.target)

    def moved(self, population: Sequence[Genome], breeder: Breeder) -> list[Genome]:
        """Return the candidates at a new target.

        These are its seed, genomes known from the old target, and children of both.
        """
        last = [entry.genome for entry in self.schedule.accepted[-1:]]
        sources = [self.seed(self.schedule.target), *last, *population]
        return breeder.moved(list(dict.fromkeys(sources)), self.budget, self.settings.offspring)

    def children(self, population: Sequence[Scored], breeder: Breeder) -> list[Genome]:
        """Return new children of the population, at an unchanged target."""
        return breeder.children(population, self.budget, self.settings.offspring)

    def _brought(self, genome: Genome, share: float) -> Genome:
        """Return a user's genome brought to a size.

        It stays as it is unless it is much smaller, because enlarging by energies may do harm.
        """
        space = self.space
        fits = space.cost(genome) <= space.budget(share)
        if fits and space.cost_share(genome) > share - ABOVE:
            return genome
        return fitted(self.prices, genome, share)


@dataclass(frozen=True, kw_only=True)
class FrontProposer(Proposer):
    """Source of candidates of a search over many sizes.

    Args:
        sizes: The sizes, up to that of the schedule. Other arguments are as for `Proposer`.
    """

    sizes: Sizes

    def seeds(self, breeder: Breeder) -> list[Genome]:
        """Return the candidates of generation 0.

        These are the seed of every size, largest first, and the user's genomes at sizes that hold them.
        """
        shares = self.sizes.shares
        given = [self._brought(genome, shares[self.sizes.place(genome)]) for genome in self.given]
        return [*map(self.seed, reversed(shares)), *given]

    def children(self, population: Sequence[Scored], breeder: Breeder) -> list[Genome]:
        """Return new children, at the sizes of their parents or neighbouring ones."""
        return breeder.children_of_sizes(population, self.sizes, self.settings.offspring)
