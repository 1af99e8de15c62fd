"""Level mutation: a few genes move up or down by one or a few levels."""

from random import Random

import numpy as np

from ranksieve.search.space.space import Genome, SearchSpace

MOST_CHANGES = 4
STRIDES = (1, 2, 4)
"""Levels a gene moves at once; all equally likely."""


def draw_changes(rng: Random) -> int:
    """Draw how many genes to change.

    It is the smaller of two uniform draws, so mostly one or two.
    """
    return min(rng.randint(1, MOST_CHANGES), rng.randint(1, MOST_CHANGES))


def level_below(space: SearchSpace, index: int, level: int, rng: Random) -> int:
    """Return the level one step down from `level`.

    Just below dense a rank is stored in nearly as many parameters as the matrix and loses a lot. So a step from dense
    is a jump to any rank that keeps half of the parameters or more, or to the last one below half.

    Args:
        space: The search space.
        index: Index of the gene.
        level: Its level, at least 1.
        rng: Source of randomness.
    """
    if not space.genes[index].is_dense(level):
        return level - 1
    cost_L = space.cost_GL[index, : level + 1]
    half = int(np.searchsorted(cost_L, cost_L[level] // 2, side="right")) - 1
    return rng.randint(max(0, half), level - 1)  # all its levels may keep more than half


def mutate(space: SearchSpace, genome: Genome, rng: Random) -> Genome:
    """Move one or a few genes up or down; the size may change.

    Args:
        space: The search space.
        genome: Genome to change; not modified.
        rng: Source of randomness.

    Returns:
        A genome that differs in at least one level.
    """
    levels = list(genome)
    count = min(draw_changes(rng), len(levels))
    for i in rng.sample(range(len(levels)), count):
        top, stride = len(space.genes[i].levels) - 1, rng.choice(STRIDES)
        if levels[i] == 0 or (levels[i] < top and rng.random() < 0.5):
            levels[i] = min(top, levels[i] + stride)
        else:
            levels[i] = max(0, level_below(space, i, levels[i], rng) - stride + 1)
    return tuple(levels)
