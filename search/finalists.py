"""Which genomes go on to the confirm split, and in which order.

A search that compares many genomes on the same examples flatters its winner, so finalists are tested again
on fresh ones. They are tested from the largest down (`search.confirmation.fixed_sequence`), so the list holds
some larger ones to fall back on: close together near the smallest, further apart above it.
"""

from collections.abc import Sequence

from search.objectives import Accepted
from search.prices import Energies
from search.seeds import lagrangian
from search.space import Genome, SearchSpace

GAPS = (0.02, 0.02, 0.04, 0.08, 0.16)
"""From each finalist to the next larger one, at least; the last one repeats."""

TOLERANCE = 1e-3  # kept shares lie a hair below their targets
SAFEST_SHARE = 0.95


def spread(accepted: Sequence[Accepted], limit: int) -> list[Accepted]:
    """At most `limit` accepted genomes: the smallest, then at widening gaps.

    Args:
        accepted: In any order.
        limit: How many, at least one.

    Returns:
        Largest first; the smallest is always among them.
    """
    rising = sorted(accepted, key=lambda entry: entry.share)
    chosen = rising[:1]
    for entry in rising[1:]:
        gap = GAPS[min(len(chosen), len(GAPS)) - 1]
        if len(chosen) < limit and entry.share - chosen[-1].share > gap - TOLERANCE:
            chosen.append(entry)
    return chosen[::-1]


def drop_finalists(
    space: SearchSpace, energies: Energies, accepted: Sequence[Accepted], limit: int
) -> list[Genome]:
    """Finalists of a `MaxDrop` search, largest first.

    Args:
        space: The search space.
        energies: Per matrix, squared singular values in units of the task loss, descending.
        accepted: What was good enough on the search split.
        limit: How many, at least one.

    Returns:
        Distinct genomes of strictly falling size; the Lagrangian one just short of dense if nothing was accepted.
    """
    if not accepted:
        return [lagrangian(space, energies, SAFEST_SHARE)]
    falling: list[Genome] = []
    for entry in reversed(spread(accepted, limit)):
        if not falling or space.params(entry.genome) > space.params(falling[-1]):
            falling.append(entry.genome)
    return falling[::-1]
