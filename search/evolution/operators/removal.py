"""Removal: drop all matrices of a sublayer and free their cost for others.

A sublayer down to its last ranks may do more harm than good: its output is no longer what the dense one would add.
Energies, which count each matrix by itself, do not show this. Levels that move one by one rarely get there: the first
matrix at rank 0 silences the sublayer, and the others still cost.

EvoPress removes whole attention and feed-forward modules where it prunes depth, arXiv 2410.14649.
"""

from collections.abc import Iterator
from random import Random

from ranksieve.search.space.prices import Prices
from ranksieve.search.space.space import Genome, SearchSpace


def removable(space: SearchSpace, genome: Genome) -> bool:
    """Return whether there is a sublayer to remove."""
    return any(_live(space, genome))


def removals(prices: Prices, genome: Genome) -> list[Genome]:
    """Return a genome without one of its sublayers, for each of them.

    Those that lose the least predicted loss come first.

    Args:
        prices: Predicted losses.
        genome: Genome to change; not modified.
    """
    return [_without(genome, genes) for _, genes in _by_loss(prices, genome)]


def remove(prices: Prices, genome: Genome, rng: Random) -> Genome:
    """Remove one sublayer; half the predicted loss doubles the chance to go.

    Args:
        prices: Predicted losses.
        genome: Genome to change; not modified.
        rng: Source of randomness.

    Returns:
        A smaller genome.

    Raises:
        ValueError: No sublayer can be removed.
    """
    _, genes = min(_by_loss(prices, genome), key=lambda sublayer: rng.expovariate(1.0) * sublayer[0])
    return _without(genome, genes)


def _by_loss(prices: Prices, genome: Genome) -> list[tuple[float, tuple[int, ...]]]:
    """Return the present sublayers with their predicted losses, least first."""
    lost_GL = prices.lost_GL
    live = _live(prices.space, genome)
    return sorted((sum(float(lost_GL[i, 0] - lost_GL[i, genome[i]]) for i in genes), genes) for genes in live)


def _live(space: SearchSpace, genome: Genome) -> Iterator[tuple[int, ...]]:
    return (genes for genes in space.sublayers if any(genome[i] for i in genes))


def _without(genome: Genome, genes: tuple[int, ...]) -> Genome:
    gone = set(genes)
    return tuple(0 if i in gone else level for i, level in enumerate(genome))
