"""EvoPress: one parent, many children by level switches, selected in stages of few survivors on more examples.

Source: EvoPress, arXiv 2410.14649, algorithm 1. Some things differ. Levels cost differently here, so a switch is our
transfer, which raises one gene by one level, chosen by price, and lowers others until they have paid in full; what is
free under the budget is not spent, and up to four switches make a child. A stage sees the same examples in every
generation, as our search does, not fresh ones. What was scored at a stage before is not scored again at the next.
"""

from collections.abc import Sequence
from random import Random

from baselines.batches import Stage, Strategy, race
from baselines.level_switch import transfer
from baselines.sizes import Family, settle_start, stepped

from ranksieve.search.evolution.outcome import Outcome, Trial
from ranksieve.search.evolution.schedules import Schedule
from ranksieve.search.space.space import SearchSpace

OFFSPRING = 64


def evopress_stages(full: int) -> tuple[Stage, ...]:
    """Its stages: 8, 2 and 1 survivors, on a 32nd and a quarter of the examples and on all."""
    return (
        Stage(examples=max(1, full // 32), survivors=8),
        Stage(examples=max(1, full // 4), survivors=2),
        Stage(examples=full, survivors=1),
    )


def evopress(
    space: SearchSpace,
    schedule: Schedule,
    family: Family,
    *,
    stages: Sequence[Stage],
    rng: Random,
    offspring: int = OFFSPRING,
) -> Strategy:
    """The (1+λ) search; for ever where the schedule does not end it.

    Args:
        space: The search space.
        schedule: Sets the size; at a smaller one the parent goes on with random genes lowered.
        family: Gives the first parent: EvoPress starts from the uniform one.
        stages: Of a race; the last one sees all search examples.
        rng: Source of all randomness.
        offspring: λ, the children of a generation.
    """
    full = stages[-1].examples
    yield from settle_start(space, schedule, family, full)
    parent: Outcome | None = None
    target: float | None = None
    while not schedule.finished:
        if parent is None or schedule.target != target:
            target = schedule.target
            start = family(target) if parent is None else parent.genome
            genome = stepped(space, start, space.budget(target), rng)
            (parent,) = yield [Trial(genome=genome, examples=full)]
        children = [transfer(space, parent.genome, rng) for _ in range(offspring)]
        finishers = yield from race(children, stages)
        best = min([parent, *finishers], key=lambda outcome: outcome.fitness)
        share = space.kept_share(best.genome)
        schedule.observe(best, share, target=target, improved=best is not parent)
        parent = best
