"""Budget-preserving transfer: some genes grow, others pay for it.

Source: EvoPress's level switch, arXiv 2410.14649, section 3, with genes of unequal price.
"""

from collections.abc import Iterable
from random import Random

from ranksieve.search.evolution.operators.mutation import draw_changes, level_below
from ranksieve.search.space.space import Genome, SearchSpace


def _by_price(space: SearchSpace, indices: Iterable[int], rng: Random) -> list[int]:
    """Return `indices` in random order, cheap genes tending to come first.

    A gene of half the price per level is twice as likely to come first.
    """
    return sorted(indices, key=lambda i: rng.expovariate(1.0 / _step_cost(space, i)))


def _step_cost(space: SearchSpace, index: int) -> float:
    """Return the mean cost of a step of a gene."""
    top = len(space.genes[index].levels) - 1
    return (space.cost_at(index, top) - space.cost_at(index, 0)) / top


def _can_grow(space: SearchSpace, levels: list[int], index: int) -> bool:
    """Return whether gene `index` is below its top level."""
    return levels[index] < len(space.genes[index].levels) - 1


def transfer(space: SearchSpace, genome: Genome, rng: Random) -> Genome:
    """Raise one or a few genes by a level, and lower others to pay for it.

    Cheap genes change more often, in proportion to their mean price per level, so that every kind of gene
    moves about as much cost. A gene never both pays and grows.

    Args:
        space: The search space.
        genome: Genome to change; not modified.
        rng: Source of randomness.

    Returns:
        A genome of at most the same cost; the given one where no gene can grow or none can pay.
    """
    levels = list(genome)
    growing = _by_price(space, (i for i in range(len(levels)) if _can_grow(space, levels, i)), rng)
    growing = growing[: draw_changes(rng)]
    debt = 0
    for i in growing:
        debt += space.cost_at(i, levels[i] + 1) - space.cost_at(i, levels[i])
        levels[i] += 1
    for i in _by_price(space, set(range(len(levels))).difference(growing), rng):
        if debt > 0 and levels[i] > 0:
            below = level_below(space, i, levels[i], rng)
            debt -= space.cost_at(i, levels[i]) - space.cost_at(i, below)
            levels[i] = below
    return tuple(levels) if debt <= 0 else genome
