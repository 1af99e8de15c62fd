"""Level mutation: some genes move up or down by one level, or several.

How many: few scorings are spent on many genes, so that single steps lead nowhere, and too many at once seldom help. At
most 16 were best of 210 genes, four of 56 (`tests/benchmarks/search_table.py --synthetic`).
"""

from random import Random

import numpy as np

from search.space import Genome, SearchSpace

FEW = 4
MOST_CHANGED = 0.08
"""Share of the genes that change at most, where that is more than a few."""

STRIDES = (1, 2, 4)
"""Levels a gene moves at once; all equally likely."""


def draw_changes(genes: int, rng: Random) -> int:
    """How many of so many genes to change: the smaller of two uniform draws."""
    most = min(genes, max(FEW, round(MOST_CHANGED * genes)))
    return min(rng.randint(1, most), rng.randint(1, most))


def level_below(space: SearchSpace, index: int, level: int, rng: Random) -> int:
    """The level that one step down from `level` leads to.

    Just below dense a rank is stored in nearly as many parameters as the matrix and loses a lot, so a step from
    there is a jump to any rank that keeps half of them or more, or to the last one below half.

    Args:
        space: The search space.
        index: Which gene.
        level: Its level, at least 1.
        rng: Source of randomness.
    """
    if not space.genes[index].is_dense(level):
        return level - 1
    cost_L = space.cost_GL[index, : level + 1]
    half = int(np.searchsorted(cost_L, cost_L[level] // 2, side="right")) - 1
    return rng.randint(max(0, half), level - 1)  # all its levels may keep more than half


def mutate(space: SearchSpace, genome: Genome, rng: Random) -> Genome:
    """Move some genes up or down; the size may change.

    Args:
        space: The search space.
        genome: Left as it is.
        rng: Source of randomness.

    Returns:
        A genome that differs in at least one level.
    """
    levels = list(genome)
    for i in rng.sample(range(len(levels)), draw_changes(len(levels), rng)):
        top, stride = len(space.genes[i].levels) - 1, rng.choice(STRIDES)
        if levels[i] == 0 or (levels[i] < top and rng.random() < 0.5):
            levels[i] = min(top, levels[i] + stride)
        else:
            levels[i] = max(0, level_below(space, i, levels[i], rng) - stride + 1)
    return tuple(levels)
