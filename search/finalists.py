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

FIRST_GAP = 0.02
TOLERANCE = 1e-3  # kept shares lie a hair below their targets
SAFE_MARGIN = 0.15
SAFEST_SHARE = 0.95


def spread(accepted: Sequence[Accepted], limit: int) -> list[Accepted]:
    """At most `limit` accepted genomes: the smallest, then at gaps that double.

    Args:
        accepted: In any order.
        limit: How many, at least one.

    Returns:
        Largest first; the smallest is always among them.
    """
    chosen: list[Accepted] = []
    gap = FIRST_GAP
    for entry in sorted(accepted, key=lambda entry: entry.share):
        if not chosen:
            chosen.append(entry)
        elif len(chosen) < limit and entry.share - chosen[-1].share > gap - TOLERANCE:
            chosen.append(entry)
            gap *= 2
    return chosen[::-1]


def safe_seed(space: SearchSpace, energies: Energies, above: float) -> Genome:
    """A Lagrangian genome clearly larger than the share `above`, short of dense."""
    return lagrangian(space, energies, min(SAFEST_SHARE, above + SAFE_MARGIN))


def drop_finalists(
    space: SearchSpace, energies: Energies, accepted: Sequence[Accepted], limit: int
) -> list[Genome]:
    """Finalists of a `MaxDrop` search, largest first.

    Args:
        space: The search space.
        energies: Per matrix, squared singular values in units of the task loss, descending.
        accepted: What was good enough on the search split; may be empty.
        limit: How many, at least one.

    Returns:
        Distinct genomes of strictly falling size, led by a safe seed unless `limit` is one.
    """
    chosen = spread(accepted, max(1, limit - 1))
    genomes = [entry.genome for entry in chosen]
    if limit > 1 or not genomes:
        genomes.insert(0, safe_seed(space, energies, chosen[0].share if chosen else 1.0))
    falling: list[Genome] = []
    for genome in reversed(genomes):
        if not falling or space.params(genome) > space.params(falling[-1]):
            falling.append(genome)
    return falling[::-1]
