"""Level mutation: a few matrices move up or down by one level, or a few."""

from random import Random

import numpy as np

from search.space import DENSE, Genome, SearchSpace

MOST_CHANGES = 4
STRIDES = (1, 2, 4)
"""Levels a matrix moves at once; all equally likely."""


def draw_changes(rng: Random) -> int:
    """How many matrices to change: the smaller of two uniform draws, so mostly one or two."""
    return min(rng.randint(1, MOST_CHANGES), rng.randint(1, MOST_CHANGES))


def level_below(space: SearchSpace, index: int, level: int, rng: Random) -> int:
    """The level that one step down from `level` leads to.

    Just below dense a rank is stored in nearly as many parameters as the matrix and loses a lot, so a step from
    there is a jump to any rank that keeps half of them or more, or to the last one below half.

    Args:
        space: The search space.
        index: Which matrix.
        level: Its level, at least 1.
        rng: Source of randomness.
    """
    if space.levels[index][level] != DENSE:
        return level - 1
    params_L = space.params_ML[index, : level + 1]
    half = int(np.searchsorted(params_L, params_L[level] // 2, side="right")) - 1
    return rng.randint(half, level - 1)


def mutate(space: SearchSpace, genome: Genome, rng: Random) -> Genome:
    """Move one or a few matrices up or down; the size may change.

    Args:
        space: The search space.
        genome: Left as it is.
        rng: Source of randomness.

    Returns:
        A genome that differs in at least one level.
    """
    levels = list(genome)
    for i in rng.sample(range(len(levels)), min(draw_changes(rng), len(levels))):
        top, stride = len(space.levels[i]) - 1, rng.choice(STRIDES)
        if levels[i] == 0 or (levels[i] < top and rng.random() < 0.5):
            levels[i] = min(top, levels[i] + stride)
        else:
            levels[i] = max(0, level_below(space, i, levels[i], rng) - stride + 1)
    return tuple(levels)
