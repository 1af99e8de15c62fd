"""Reallocation: all genes move a little at once, as if each mattered a little more or less than it was thought to.

Shape letters: G genes.
"""

from random import Random

import numpy as np

from search.prices import Prices
from search.space import Genome

SPREAD = 0.3
"""Standard deviation of the logarithm of the weights drawn."""


def reallocate(prices: Prices, genome: Genome, rng: Random) -> Genome:
    """The Lagrangian levels of the exchange rate that `genome` trades at, under jittered weights of its genes.

    What a search has found stays: without jitter a gene inside its levels is at its optimum where it is
    (`Prices.implied_weights`).

    Args:
        prices: Predicted losses; its space is that of the genome.
        genome: Left as it is.
        rng: Source of randomness.

    Returns:
        A genome of about the same cost; the same one where no gene is inside its levels.
    """
    levels_G = np.array(genome, dtype=np.int64)
    rate = prices.exchange_rate(levels_G)
    if rate is None:
        return genome
    weights_G = prices.implied_weights(levels_G) * [rng.lognormvariate(0.0, SPREAD) for _ in genome]
    charged_GL = prices.lost_GL * weights_G[:, None] + rate * prices.space.cost_GL
    return tuple(charged_GL.argmin(axis=1).tolist())
