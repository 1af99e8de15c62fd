"""Crossover: a child takes each level from one of two parents."""

from random import Random

from ranksieve.search.space.space import Genome, SearchSpace


def one_point(first: Genome, second: Genome, rng: Random) -> Genome:
    """The head of one parent and the tail of the other, cut at a random gene.

    Args:
        first: Gives the head.
        second: Gives the tail.
        rng: Source of randomness.
    """
    cut = rng.randint(1, max(1, len(first) - 1))
    return first[:cut] + second[cut:]


def uniform(first: Genome, second: Genome, rng: Random) -> Genome:
    """Every level from either parent with equal chance.

    Args:
        first: One parent.
        second: The other.
        rng: Source of randomness.
    """
    return tuple(a if rng.random() < 0.5 else b for a, b in zip(first, second, strict=True))


def layer_block(space: SearchSpace, first: Genome, second: Genome, rng: Random) -> Genome:
    """The first parent with a run of whole layers taken from the second.

    Args:
        space: Says which gene is in which layer.
        first: Gives everything outside the run.
        second: Gives the run.
        rng: Source of randomness.
    """
    layers = sorted({gene.layer for gene in space.genes})
    start, end = sorted((rng.randrange(len(layers)), rng.randrange(len(layers))))
    taken = set(layers[start : end + 1])
    return tuple(
        b if gene.layer in taken else a for gene, a, b in zip(space.genes, first, second, strict=True)
    )


def crossover(space: SearchSpace, first: Genome, second: Genome, rng: Random) -> Genome:
    """One of the three kinds, drawn at random; the child's size lies wherever it falls.

    Args:
        space: The search space.
        first: One parent, left as it is.
        second: The other, left as it is.
        rng: Source of randomness.
    """
    kind = rng.randrange(3)
    if kind == 0:
        return one_point(first, second, rng)
    if kind == 1:
        return uniform(first, second, rng)
    return layer_block(space, first, second, rng)
