"""Removal: all matrices of a sublayer go at once, and what they cost is free for others.

A sublayer that is down to its last ranks may do more harm than good: what it adds is no longer what the dense one
would, and energies, which count each matrix by itself, do not tell. Levels that move one by one rarely get there: the
first matrix at rank 0 silences the sublayer, and the others still cost.

Whole attention and feed-forward modules are what EvoPress removes where it prunes depth, arXiv 2410.14649.
"""

from collections.abc import Iterator
from random import Random

from ranksieve.search.space.prices import Prices
from ranksieve.search.space.space import Genome, SearchSpace


def removable(space: SearchSpace, genome: Genome) -> bool:
    """Whether there is a sublayer to remove."""
    return any(_live(space, genome))


def removals(prices: Prices, genome: Genome) -> list[Genome]:
    """A genome without one of its sublayers, for each of them, those first that lose the least predicted loss.

    Args:
        prices: Predicted losses.
        genome: Left as it is.
    """
    return [_without(genome, genes) for _, genes in _by_loss(prices, genome)]


def remove(prices: Prices, genome: Genome, rng: Random) -> Genome:
    """Remove one sublayer; one of half the predicted loss is twice as likely to go.

    Args:
        prices: Predicted losses.
        genome: Left as it is.
        rng: Source of randomness.

    Returns:
        A smaller genome.

    Raises:
        ValueError: No sublayer can go.
    """
    _, genes = min(_by_loss(prices, genome), key=lambda sublayer: rng.expovariate(1.0) * sublayer[0])
    return _without(genome, genes)


def _by_loss(prices: Prices, genome: Genome) -> list[tuple[float, tuple[int, ...]]]:
    """The sublayers that are not gone yet, and what they lose, least first."""
    lost_GL = prices.lost_GL
    live = _live(prices.space, genome)
    return sorted((sum(float(lost_GL[i, 0] - lost_GL[i, genome[i]]) for i in genes), genes) for genes in live)


def _live(space: SearchSpace, genome: Genome) -> Iterator[tuple[int, ...]]:
    return (genes for genes in space.sublayers if any(genome[i] for i in genes))


def _without(genome: Genome, genes: tuple[int, ...]) -> Genome:
    gone = set(genes)
    return tuple(0 if i in gone else level for i, level in enumerate(genome))
