"""Random search: genomes of random densities at the size wanted."""

from random import Random

from baselines.batches import Stage, Strategy, race
from baselines.sizes import Family, random_genome, settle_start

from ranksieve.search.evolution.outcome import Outcome
from ranksieve.search.evolution.schedules import Schedule
from ranksieve.search.space.space import SearchSpace


def random_search(
    space: SearchSpace,
    schedule: Schedule,
    family: Family,
    *,
    full: int,
    offspring: int,
    rng: Random,
) -> Strategy:
    """Draws, scores, keeps the best; for ever where the schedule does not end it.

    Args:
        space: The search space.
        schedule: Sets the size.
        family: Tells where to start, where the smallest model is wanted.
        full: All search examples.
        offspring: Genomes of a batch.
        rng: Source of all randomness.

    Source: Bergstra and Bengio 2012.
    """
    yield from settle_start(space, schedule, family, full)
    best: Outcome | None = None
    target: float | None = None
    while not schedule.finished:
        if schedule.target != target:
            target, best = schedule.target, None
        drawn = [random_genome(space, space.budget(target), rng) for _ in range(offspring)]
        finishers = yield from race(drawn, [Stage(examples=full, survivors=1)])
        leader = min([*filter(None, [best]), *finishers], key=lambda outcome: outcome.fitness, default=None)
        share = 1.0 if leader is None else space.kept_share(leader.genome)
        schedule.observe(leader, share, target=target, improved=leader is not best)
        best = leader
