"""Which genomes a generation compares: seeds first, children later, both where the target has just moved."""

from collections.abc import Sequence

from search.breeding import Breeder, Scored
from search.prices import Energies
from search.schedules import SEED_SHARES, Ratchet, Schedule
from search.seeds import Starts, family, fitted, lagrangian, uniform
from search.settings import SearchSettings
from search.sizes import Sizes
from search.space import Genome, SearchSpace

TARGET_SEEDS = 2
"""Where one size is wanted: the Lagrangian genome and the uniform one; all others come on top."""


class Proposer:
    """The candidates of every kind of generation.

    Args:
        space: All genomes.
        energies: Per matrix, squared singular values in units of the task loss, descending.
        schedule: Says which size is wanted.
        settings: Sizes.
        given: Genomes of the user's, of any size, to start from too.
        starts: What to set out from, of the size wanted or of several.
    """

    def __init__(
        self,
        space: SearchSpace,
        energies: Energies,
        schedule: Schedule,
        settings: SearchSettings,
        given: Sequence[Genome] = (),
        *,
        starts: Starts,
    ) -> None:
        self._space, self._energies, self._given, self._starts = space, energies, given, starts
        self._schedule, self._settings = schedule, settings
        self.seed = family(space, energies, starts)
        """The first guess at a size."""

    @property
    def budget(self) -> int:
        """Most parameters a candidate may keep at the present target."""
        return self._space.budget(self._schedule.target)

    def seeds(self, breeder: Breeder) -> list[Genome]:
        """Generation 0: the seeds of many sizes, or those and mutants of the one size wanted."""
        if isinstance(self._schedule, Ratchet):
            return [*map(self.seed, SEED_SHARES), *self._given]
        target = self._schedule.target
        given = [self.fitted(genome, target) for genome in self._given]
        plain = lagrangian(self._space, self._energies, target)
        seeds = [self.origin, plain, uniform(self._space, target), *given]
        seeds = list(dict.fromkeys(seeds))
        mutants = max(0, self._settings.population - len(seeds))
        return seeds + breeder.mutants(seeds[0], self.budget, mutants)

    @property
    def origin(self) -> Genome:
        """What a search at one size sets out from: no scoring has chosen it."""
        return self.seed(self._schedule.target)

    def moved(self, population: Sequence[Genome], breeder: Breeder) -> list[Genome]:
        """At a new target: its seed, what is known from the old one, and children of both."""
        last = [entry.genome for entry in self._schedule.accepted[-1:]]
        sources = [self.seed(self._schedule.target), *last, *population]
        return breeder.moved(list(dict.fromkeys(sources)), self.budget, self._settings.offspring)

    def children(self, population: Sequence[Scored], breeder: Breeder) -> list[Genome]:
        """At an old target: new children of the population."""
        return breeder.children(population, self.budget, self._settings.offspring)

    def fitted(self, genome: Genome, share: float) -> Genome:
        """A genome brought to `share`, its own allocation trusted."""
        return fitted(self._space, self._energies, genome, share)

    def beside(self, genome: Genome, share: float) -> Genome:
        """The first guess at a size that is not far from a genome's: that one brought there, if nothing is known."""
        return self.seed(share) if self._starts else self.fitted(genome, share)


class FrontProposer(Proposer):
    """The candidates where many sizes are wanted.

    Args:
        space: All genomes.
        energies: Per matrix, squared singular values in units of the task loss, descending.
        schedule: Says the largest size.
        settings: How many.
        given: Genomes of the user's, of any size, to start from too.
        sizes: The sizes.
    """

    def __init__(
        self,
        space: SearchSpace,
        energies: Energies,
        schedule: Schedule,
        settings: SearchSettings,
        given: Sequence[Genome] = (),
        *,
        starts: Starts,
        sizes: Sizes,
    ) -> None:
        super().__init__(space, energies, schedule, settings, given, starts=starts)
        self._sizes = sizes

    def seeds(self, breeder: Breeder) -> list[Genome]:
        """Generation 0: the seed of every size, largest first, and the user's at sizes that hold them."""
        shares = self._sizes.shares
        places = [self._sizes.place(genome) for genome in self._given]
        given = [
            self.fitted(genome, shares[place]) for genome, place in zip(self._given, places, strict=True)
        ]
        return [*map(self.seed, reversed(shares)), *given]

    def children(self, population: Sequence[Scored], breeder: Breeder) -> list[Genome]:
        """New children of the population, at the sizes of their parents or those beside them."""
        return breeder.children_of_sizes(population, self._sizes, self._settings.offspring)
