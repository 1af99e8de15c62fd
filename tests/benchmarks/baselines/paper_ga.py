"""The genetic algorithm of LLM-Sieve, arXiv 2505.18350: a large random population, every child on all examples.

A chromosome holds one of ten densities per matrix. Its objective is the smallest model within a drop; models that break
a demand are compared by how far they break it. Where a size is given, which the paper does not do, chromosomes
too large are lowered, one level of a random gene at a time, before they cost a scoring.
"""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

import numpy as np
from baselines.batches import Strategy
from baselines.sizes import PAPER_DENSITIES

from ranksieve.search.errors import InputError
from ranksieve.search.evolution.outcome import Outcome, Trial
from ranksieve.search.space.objectives import MaxDrop, Objective
from ranksieve.search.space.space import Genome, SearchSpace
from ranksieve.search.start.seeds import from_densities

Chromosome = tuple[int, ...]
"""Index of a density, ascending, per gene."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PaperSettings:
    """The paper's settings, as far as they are known.

    The last three are our reading, and so are that all chromosomes begin at random, how fitness is ordered and that a
    mutation is of a child, not of each of its genes.

    Args:
        population: Chromosomes of a generation.
        generations: Most of them after the first.
        crossover_rate: Chance that a child has two parents.
        mutation_rate: Chance that a child is mutated.
        gene_rate: Chance that a mutation moves a gene, up or down by one level.
        tournament: Rivals of which the best becomes a parent.
        elite: The best of a generation that live on.
    """

    population: int = 100
    generations: int = 30
    crossover_rate: float = 0.5
    mutation_rate: float = 0.2
    gene_rate: float = 0.05
    tournament: int = 3
    elite: int = 1


def paper_ga(
    space: SearchSpace,
    objective: Objective,
    *,
    full: int,
    rng: Random,
    settings: PaperSettings | None = None,
) -> Strategy:
    """Generations of the paper's algorithm.

    Args:
        space: The search space.
        objective: What the user wants.
        full: All search examples.
        rng: Source of all randomness.
        settings: Sizes and rates.

    Raises:
        InputError: No chromosome has the size that is wanted.
    """
    settings = settings or PaperSettings()
    breeder = _Breeder(space, objective, settings, rng)
    rank = _ranking(space, objective)
    chromosomes = [breeder.random() for _ in range(settings.population)]
    for _ in range(settings.generations + 1):
        outcomes = yield [Trial(genome=breeder.genome(one), examples=full) for one in chromosomes]
        pairs = sorted(zip(map(rank, outcomes), chromosomes, strict=True))
        ranked = [chromosome for _, chromosome in pairs]
        children = [breeder.child(ranked) for _ in range(settings.population - settings.elite)]
        chromosomes = ranked[: settings.elite] + children


def _ranking(space: SearchSpace, objective: Objective) -> Callable[[Outcome], tuple[int, float]]:
    """What is compared, smaller is better: those that meet the demand first (Deb 2000), failures last."""

    def rank(outcome: Outcome) -> tuple[int, float]:
        if outcome.drop_points is None:
            return 2, 0.0
        if not isinstance(objective, MaxDrop):
            return 0, outcome.fitness
        if outcome.within(objective.points):
            return 0, space.kept_share(outcome.genome)
        return 1, outcome.drop_points

    return rank


class _Breeder:
    """Chromosomes at random and from parents, none larger than a size that is given."""

    def __init__(
        self, space: SearchSpace, objective: Objective, settings: PaperSettings, rng: Random
    ) -> None:
        self._space, self._settings, self._rng = space, settings, rng
        share = 1.0 if isinstance(objective, MaxDrop) else objective.target(space)
        self._budget = space.budget(share)
        count = len(space.matrices)
        uniform = [from_densities(space, [density] * count) for density in sorted(PAPER_DENSITIES)]
        self._levels_GK = np.array(uniform).T
        if (smallest := space.cost(uniform[0])) > self._budget:
            raise InputError(
                "objective.share",
                f"must be at least {smallest / space.total_cost:.4f}, which the paper's lowest level keeps; "
                f"got {share}",
            )

    def genome(self, chromosome: Chromosome) -> Genome:
        return tuple(self._levels_GK[np.arange(len(chromosome)), chromosome].tolist())

    def random(self) -> Chromosome:
        top = len(PAPER_DENSITIES) - 1
        return self._lowered([self._rng.randint(0, top) for _ in range(len(self._space))])

    def child(self, ranked: list[Chromosome]) -> Chromosome:
        """Of parents won in tournaments among the ranked, best first."""
        settings, rng = self._settings, self._rng
        genes = list(self._parent(ranked))
        if rng.random() < settings.crossover_rate:
            cut = rng.randint(1, max(1, len(genes) - 1))
            genes[cut:] = self._parent(ranked)[cut:]
        if rng.random() < settings.mutation_rate:
            genes = [self._step(gene) if rng.random() < settings.gene_rate else gene for gene in genes]
        return self._lowered(genes)

    def _parent(self, ranked: list[Chromosome]) -> Chromosome:
        return ranked[min(self._rng.randrange(len(ranked)) for _ in range(self._settings.tournament))]

    def _step(self, gene: int) -> int:
        return min(max(gene + self._rng.choice((-1, 1)), 0), len(PAPER_DENSITIES) - 1)

    def _lowered(self, genes: list[int]) -> Chromosome:
        genes = list(genes)
        while self._space.cost(self.genome(tuple(genes))) > self._budget:
            i = self._rng.randrange(len(genes))
            genes[i] = max(0, genes[i] - 1)
        return tuple(genes)
