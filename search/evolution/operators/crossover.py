"""Crossover: a child takes each level from one of two parents."""

from random import Random

from ranksieve.search.space.space import Genome, SearchSpace


def one_point(first: Genome, second: Genome, rng: Random) -> Genome:
    """Join the head of one parent and the tail of the other at a random gene.

    Args:
        first: Parent of the head.
        second: Parent of the tail.
        rng: Source of randomness.
    """
    cut = rng.randint(1, max(1, len(first) - 1))
    return first[:cut] + second[cut:]


def uniform(first: Genome, second: Genome, rng: Random) -> Genome:
    """Take every level from either parent with equal chance.

    Args:
        first: One parent.
        second: The other.
        rng: Source of randomness.
    """
    return tuple(a if rng.random() < 0.5 else b for a, b in zip(first, second, strict=True))


def layer_block(space: SearchSpace, first: Genome, second: Genome, rng: Random) -> Genome:
    """Replace a run of whole layers of the first parent by the second's.

    Args:
        space: Search space with the layers of genes.
        first: Parent of everything outside the run.
        second: Parent of the run.
        rng: Source of randomness.
    """
    layers = sorted({gene.layer for gene in space.genes})
    start, end = sorted((rng.randrange(len(layers)), rng.randrange(len(layers))))
    taken = set(layers[start : end + 1])
    return tuple(
        b if gene.layer in taken else a for gene, a, b in zip(space.genes, first, second, strict=True)
    )


def crossover(space: SearchSpace, first: Genome, second: Genome, rng: Random) -> Genome:
    """Return a child by a random kind of crossover.

    The child may have any size.

    Args:
        space: The search space.
        first: One parent; not modified.
        second: The other; not modified.
        rng: Source of randomness.
    """
    kind = rng.randrange(3)
    if kind == 0:
        return one_point(first, second, rng)
    if kind == 1:
        return uniform(first, second, rng)
    return layer_block(space, first, second, rng)
