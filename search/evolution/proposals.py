"""Which genomes a generation compares: seeds first, children later, both where the target has just moved."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from ranksieve.search.evolution.breeding import Breeder, Scored
from ranksieve.search.evolution.schedules import SEED_SHARES, Ratchet, Schedule
from ranksieve.search.evolution.settings import SearchSettings
from ranksieve.search.space.prices import Prices
from ranksieve.search.space.sizes import Sizes
from ranksieve.search.space.space import Genome, SearchSpace
from ranksieve.search.start.seeds import ABOVE, Family, Starts, cheapest, family, fitted, uniform

TARGET_SEEDS = 2
"""Where one size is wanted: the Lagrangian genome and the uniform one; all others come on top."""


@dataclass(frozen=True, kw_only=True)
class Proposer:
    """The candidates of every kind of generation.

    Args:
        prices: Predicted losses; their space holds all genomes.
        schedule: Says which size is wanted.
        settings: Sizes.
        given: Genomes of the user's, of any size, to start from too.
        starts: What to set out from, of the size wanted or of several.
    """

    prices: Prices
    schedule: Schedule
    settings: SearchSettings
    given: Sequence[Genome] = ()
    starts: Starts

    @property
    def space(self) -> SearchSpace:
        """All genomes."""
        return self.prices.space

    @cached_property
    def seed(self) -> Family:
        """The first guess at a size."""
        return family(self.prices, self.starts)

    @property
    def budget(self) -> int:
        """Most parameters a candidate may keep at the present target."""
        return self.space.budget(self.schedule.target)

    def seeds(self, breeder: Breeder) -> list[Genome]:
        """Generation 0: the seeds of many sizes, or those and mutants of the one size wanted."""
        if isinstance(self.schedule, Ratchet):
            return [*map(self.seed, SEED_SHARES), *self.given]
        target = self.schedule.target
        given = [self._brought(genome, target) for genome in self.given]
        plain = cheapest(self.prices, target)
        seeds = [self.origin, plain, uniform(self.space, target), *given]
        seeds = list(dict.fromkeys(seeds))
        mutants = max(0, self.settings.population - len(seeds))
        return seeds + breeder.mutants(seeds[0], self.budget, mutants)

    @property
    def origin(self) -> Genome:
        """What a search at one size sets out from: no scoring has chosen it."""
        return self.seed(self.schedule.target)

    def moved(self, population: Sequence[Genome], breeder: Breeder) -> list[Genome]:
        """At a new target: its seed, what is known from the old one, and children of both."""
        last = [entry.genome for entry in self.schedule.accepted[-1:]]
        sources = [self.seed(self.schedule.target), *last, *population]
        return breeder.moved(list(dict.fromkeys(sources)), self.budget, self.settings.offspring)

    def children(self, population: Sequence[Scored], breeder: Breeder) -> list[Genome]:
        """At an old target: new children of the population."""
        return breeder.children(population, self.budget, self.settings.offspring)

    def fitted(self, genome: Genome, share: float) -> Genome:
        """A genome brought to `share`, its own allocation trusted."""
        return fitted(self.prices, genome, share)

    def _brought(self, genome: Genome, share: float) -> Genome:
        """A genome of the user's at a size: as it is, if it is not much smaller, for what energies add may do harm."""
        space = self.space
        fits = space.cost(genome) <= space.budget(share)
        return genome if fits and space.cost_share(genome) > share - ABOVE else self.fitted(genome, share)

    def beside(self, genome: Genome, share: float) -> Genome:
        """The first guess at a size that is not far from a genome's: that one brought there, if nothing is known."""
        return self.seed(share) if self.starts else self.fitted(genome, share)


@dataclass(frozen=True, kw_only=True)
class FrontProposer(Proposer):
    """The candidates where many sizes are wanted.

    Args:
        sizes: The sizes. The largest is the schedule's; the rest is as of `Proposer`.
    """

    sizes: Sizes

    def seeds(self, breeder: Breeder) -> list[Genome]:
        """Generation 0: the seed of every size, largest first, and the user's at sizes that hold them."""
        shares = self.sizes.shares
        given = [self._brought(genome, shares[self.sizes.place(genome)]) for genome in self.given]
        return [*map(self.seed, reversed(shares)), *given]

    def children(self, population: Sequence[Scored], breeder: Breeder) -> list[Genome]:
        """New children of the population, at the sizes of their parents or those beside them."""
        return breeder.children_of_sizes(population, self.sizes, self.settings.offspring)
