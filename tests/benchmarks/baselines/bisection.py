"""No search: one family of genomes along the size axis, and bisection for the smallest that is good enough.

With uniform genomes this is the paper's uniform pruning (LLM-Sieve, arXiv 2505.18350); with Lagrangian ones it is what
our factors give before any search.
"""

from baselines.batches import Strategy
from baselines.sizes import Family

from ranksieve.search.evolution.outcome import Trial
from ranksieve.search.space.objectives import MaxDrop, Objective
from ranksieve.search.space.space import Genome, SearchSpace

PRECISION = 0.005
"""Of the kept share, as for our search."""


def bisection(space: SearchSpace, objective: Objective, family: Family, *, full: int) -> Strategy:
    """Scores the member of a size that is given, or halves the sizes between one that holds and one that does not.

    Args:
        space: The search space.
        objective: What the user wants.
        family: One genome of every size.
        full: All search examples.

    Raises:
        InputError: No genome of the space has the size that is wanted.
    """
    if not isinstance(objective, MaxDrop):
        yield [_trial(family(objective.target(space)), full)]
        return
    low, high = space.smallest_share, space.largest_share
    while high - low > PRECISION:
        middle = (low + high) / 2
        (outcome,) = yield [_trial(family(middle), full)]
        if outcome.within(objective.points):
            high = middle
        else:
            low = middle


def _trial(genome: Genome, examples: int) -> Trial:
    return Trial(genome=genome, examples=examples)
