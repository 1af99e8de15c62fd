"""Weights of matrices' energies, learnt from the slopes of compressed models.

The energies are of second order around the dense model. At a third of its parameters the errors of many matrices meet,
and what a component is worth depends on what else was cut. Measured at a candidate, the loss changes to second order by

    cutting what is kept    Σ ½h - s      s: slope of the loss by the component's gate, h: its energy
    leaving out what is cut Σ -s - ½h     as predicted, s = 0 for the kept and s = -h for the cut, both are ½h

Their sum over the components next to a matrix's rank, relative to the prediction, says by how much the matrix's
energies are wrong. The weight moves some of the way there, the candidate is allocated anew by the weighted energies,
and so on. Steps are small, because a measurement at a candidate holds only near it.

A round's measurement is noisy, and holds for the measured genome. The weights to search by are the mean of the last
half of the rounds (averaged stochastic approximation, Polyak and Juditsky 1992). For that, rounds need examples of
their own.

Legend: M matrices.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ranksieve.search.space.prices import Energies

RATE = 0.3
"""Part of the way to the measured weight that a round moves."""

STEP = (0.7, 1.4)
"""Smallest and largest factor of a weight in one round.

Slopes next to the rank are noisy, and some are negative.
"""

BOUNDS = (0.2, 5.0)
"""Smallest and largest weight."""

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


def weighted(energies: Energies, weights_M: Floats) -> list[Floats]:
    """Return the energies of every matrix times its weight."""
    return [weight * energy for weight, energy in zip(weights_M, energies, strict=True)]


def settled(rounds: Sequence[Floats]) -> Floats:
    """Return the weights to search by.

    This is the geometric mean of the last half of the rounds.

    Args:
        rounds: The weights after each round, M each; at least one.
    """
    last = rounds[len(rounds) // 2 :]
    mean_M: Floats = np.exp(np.mean(np.log(last), axis=0))
    return mean_M


def next_weights(
    weights_M: Floats,
    energies: Energies,
    windows: Sequence[tuple[int, int, int]],
    kept_M: Floats,
    cut_M: Floats,
) -> Floats:
    """Return the weights after one measurement.

    Args:
        weights_M: Weights that the measured candidate was allocated by.
        energies: Unweighted energies per matrix, in the unit of the slopes: loss per example.
        windows: Per matrix the first measured component, the rank, and the end of the measured components.
        kept_M: Slopes summed from the first component to the rank, per example.
        cut_M: Slopes summed from the rank to the last component, per example.

    Returns:
        New weights; unchanged where a window is empty or holds no energy.
    """
    moved_M = weights_M.copy()
    for i, (energy, (start, rank, stop)) in enumerate(zip(energies, windows, strict=True)):
        below, above = float(energy[start:rank].sum()), float(energy[rank:stop].sum())
        if (predicted := (below + above) / 2) > 0:
            measured = (below / 2 - kept_M[i]) + (-cut_M[i] - above / 2)
            wanted = measured / predicted / weights_M[i]
            moved_M[i] *= np.clip(1 + RATE * (wanted - 1), *STEP)
    return np.clip(moved_M, *BOUNDS)
