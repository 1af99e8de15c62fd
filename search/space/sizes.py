"""The sizes at which a front is searched: even steps between two, so that models of one size compete.

Were every size allowed, hardly any model would beat another: each would be the best of its own size. In steps, the best
of each size stays, and what is learnt at one of them is carried to the next.
"""

import math
from bisect import bisect_left

import numpy as np

from ranksieve.search.space.objectives import Pareto
from ranksieve.search.space.space import Genome, SearchSpace


class Sizes:
    """Sizes by their place, from the smallest at 0.

    Args:
        space: Prices genomes, and may keep more than the smallest size that is wanted.
        objective: The ends, and how many.
    """

    def __init__(self, space: SearchSpace, objective: Pareto) -> None:
        self._space = space
        smallest = max(objective.smallest, space.smallest_share)
        self.shares = [float(share) for share in np.linspace(smallest, objective.largest, objective.sizes)]
        """What a genome keeps at most of the dense cost, by the place of its size."""
        self._budgets = [space.budget(share) for share in self.shares]

    @property
    def middle(self) -> float:
        """As many times the smallest as the largest is of it."""
        return math.sqrt(self.shares[0] * self.shares[-1])

    def budget(self, place: int) -> int:
        """Most that a genome of this size costs."""
        return self._budgets[place]

    def place(self, genome: Genome) -> int:
        """The smallest size that holds a genome; the largest where none does."""
        return min(bisect_left(self._budgets, self._space.cost(genome)), len(self._budgets) - 1)

    def step(self, place: int, by: int) -> int:
        """The place some steps on, or the last one on the way."""
        return min(max(0, place + by), len(self._budgets) - 1)
