"""An outside check: CMA-ES of the library `cmaes` on what it is made for, real numbers.

Its variables are the logarithms of one weight per gene; a genome is the Lagrangian one of the energies so weighted. So
every candidate is on budget, the seed of our search is where it starts, and it may move everything at once. The
diagonal variant, because a full covariance of hundreds of variables takes more scorings than there are.
"""

from random import Random

import numpy as np
from baselines.batches import Strategy
from baselines.sizes import settle_start
from cmaes import SepCMA
from numpy.typing import NDArray

from ranksieve.search.evolution.outcome import Outcome, Trial
from ranksieve.search.evolution.schedules import Schedule
from ranksieve.search.space.prices import Energies
from ranksieve.search.space.space import Genome, SearchSpace
from ranksieve.search.start.seeds import lagrangian

SIGMA = 0.3
"""First standard deviation, of the logarithms."""

WORST = 1e3
"""What a failed candidate is told as, in nats: more than any loss."""


def cma_es(
    space: SearchSpace,
    energies: Energies,
    schedule: Schedule,
    *,
    full: int,
    rng: Random,
    sigma: float = SIGMA,
    population: int | None = None,
) -> Strategy:
    """Generations of the diagonal CMA-ES, every candidate on all examples: it learns from all of them.

    Args:
        space: The search space.
        energies: Per matrix, squared singular values in units of the task loss, descending.
        schedule: Sets the size; what was learned at one size is kept for the next.
        full: All search examples.
        rng: Seeds the library.
        sigma: First standard deviation.
        population: Candidates of a generation; by default what the library takes for so many variables.

    Source: Ros and Hansen 2008 (sep-CMA-ES).
    """
    yield from settle_start(space, schedule, lambda share: lagrangian(space, energies, share), full)
    strategy = SepCMA(
        mean=np.zeros(len(space)), sigma=sigma, seed=rng.getrandbits(32), population_size=population
    )
    best: Outcome | None = None
    target: float | None = None
    while not schedule.finished:
        if schedule.target != target:
            target = schedule.target
            (best,) = yield [Trial(genome=lagrangian(space, energies, target), examples=full)]
        points = [strategy.ask() for _ in range(strategy.population_size)]
        genomes = [weighted(space, energies, target, log_weights_G) for log_weights_G in points]
        outcomes = yield [Trial(genome=genome, examples=full) for genome in genomes]
        strategy.tell([(x, min(o.fitness, WORST)) for x, o in zip(points, outcomes, strict=True)])
        leader = min([best, *outcomes], key=lambda outcome: outcome.fitness)
        schedule.observe(leader, space.kept_share(leader.genome), target=target, improved=leader is not best)
        best = leader


def weighted(
    space: SearchSpace, energies: Energies, share: float, log_weights_G: NDArray[np.float64]
) -> Genome:
    """The Lagrangian genome where every gene matters so many times what its energies say."""
    scaled = list(energies)
    for gene, weight in zip(space.genes, np.exp(log_weights_G), strict=True):
        for member in gene.members:
            scaled[member] = energies[member] * weight
    return lagrangian(space, scaled, share)
