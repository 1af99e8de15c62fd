"""Sizes at which a front is searched: even steps between two ends.

Models of the same size compete. If every size were allowed, hardly any model would beat another, as each would be the
best of its own size. In steps, the best of each size stays, and progress at one size is carried to the next.
"""

from bisect import bisect_left

import numpy as np

from ranksieve.search.space.objectives import Pareto
from ranksieve.search.space.space import Genome, SearchSpace


class Sizes:
    """Sizes by index, from the smallest at 0.

    Args:
        space: Search space that prices genomes; its smallest genome may exceed the smallest size.
        objective: Both ends and the number of sizes.
    """

    def __init__(self, space: SearchSpace, objective: Pareto) -> None:
        self._space = space
        smallest = max(objective.smallest, space.smallest_share)
        self.shares = [float(share) for share in np.linspace(smallest, objective.largest, objective.sizes)]
        """Largest share of the dense cost, by index of the size."""
        self._budgets = [space.budget(share) for share in self.shares]

    def budget(self, place: int) -> int:
        """Return the largest cost of a genome of this size."""
        return self._budgets[place]

    def place(self, genome: Genome) -> int:
        """Return the smallest size that holds a genome, or the largest size."""
        return min(bisect_left(self._budgets, self._space.cost(genome)), len(self._budgets) - 1)

    def step(self, place: int, by: int) -> int:
        """Return the size some steps away, clipped to the ends."""
        return min(max(0, place + by), len(self._budgets) - 1)
