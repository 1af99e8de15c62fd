"""What the baselines know of sizes: random steps to a budget, and where a search for the smallest model begins.

No predicted losses: those are the Lagrangian's, and what a baseline does without them is what is asked.
"""

from collections.abc import Callable
from random import Random

from baselines.batches import Strategy

from ranksieve.search.evolution.outcome import Trial
from ranksieve.search.evolution.schedules import SEED_SHARES, Ratchet, Schedule
from ranksieve.search.space.space import Genome, SearchSpace
from ranksieve.search.start.seeds import from_densities

Family = Callable[[float], Genome]
"""Genomes of every size, by the largest share of the dense cost they may take."""

PAPER_DENSITIES = (1.0, 0.9, 0.75, 0.6, 0.5, 0.35, 0.25, 0.2, 0.1, 0.05)
"""Levels of LLM-Sieve, arXiv 2505.18350."""


def stepped(space: SearchSpace, genome: Genome, budget: int, rng: Random) -> Genome:
    """Brings a genome to a budget by one-step moves of random genes.

    Args:
        space: The search space.
        genome: Left as it is.
        budget: Most that it may cost, at least what the smallest genome does.
        rng: Source of randomness.

    Returns:
        A genome of at most `budget`; where it was raised, to which no step can be added.
    """
    levels, cost = list(genome), space.cost(genome)
    step = -1 if cost > budget else 1
    movable = list(range(len(levels)))
    while movable and (step > 0 or cost > budget):
        place = rng.randrange(len(movable))
        i = movable[place]
        level = levels[i] + step
        inside = 0 <= level < len(space.genes[i].levels)
        moved = cost + space.cost_at(i, level) - space.cost_at(i, levels[i]) if inside else cost
        if not inside or (step > 0 and moved > budget):
            movable[place] = movable[-1]
            movable.pop()
        else:
            levels[i], cost = level, moved
    return tuple(levels)


def random_densities(space: SearchSpace, rng: Random) -> Genome:
    """Return a genome with a random paper density for every matrix.

    This is how we read the paper's first population.

    Args:
        space: The search space.
        rng: Source of randomness.

    Source: LLM-Sieve, arXiv 2505.18350, whose levels these are.
    """
    return from_densities(space, [rng.choice(PAPER_DENSITIES) for _ in space.matrices])


def random_genome(space: SearchSpace, budget: int, rng: Random) -> Genome:
    """Every matrix at a random density, then random steps to the budget."""
    return stepped(space, random_densities(space, rng), budget, rng)


def settle_start(space: SearchSpace, schedule: Schedule, family: Family, full: int) -> Strategy:
    """Where the smallest model is wanted, scores a family along the size axis and lets the schedule start from that.

    Args:
        space: The search space.
        schedule: Told where to start; a fixed target knows.
        family: Its members of the sizes that `search.evolution.proposals` starts from, too.
        full: All search examples.
    """
    if isinstance(schedule, Ratchet):
        seeds = list(dict.fromkeys(map(family, SEED_SHARES)))
        outcomes = yield [Trial(genome=genome, examples=full) for genome in seeds]
        scored = [None if outcome.failure is not None else outcome for outcome in outcomes]
        schedule.start(list(zip(map(space.kept_share, seeds), scored, strict=True)))
