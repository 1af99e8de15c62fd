"""Descent: several rank steps at once, chosen by the slopes of the loss.

A backward pass through a model measures, example by example, how the loss changes to first order where a matrix gains
its next components or loses its last ones (`scoring.slopes`). The change by several steps is the sum d of their
changes. The sum that looks best on some examples is flattered by chance, and nothing is linear for long. So sums are
judged by

    expected change = trust · mean(d) + HARM · var(d)

Trust shrinks what was measured on E examples towards zero, by how much of it is noise (James and Stein 1961): one
minus the ratio of the squared step means expected by chance to the squared step means found. The variance stands for
the loss beyond the first order. Where answers change, in whatever direction, the model moves away from what its
factors were fitted to, and to second order a KL is half the variance of the change of log-probabilities. So it is the
mean-variance choice of a portfolio (Markowitz 1952): steps are assets, parameters the money.

Legend: E examples, M matrices, G genes, S steps.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

import numpy as np
from numpy.typing import NDArray

from ranksieve.search.space.genes import Gene
from ranksieve.search.space.space import Genome, SearchSpace
from ranksieve.search.start.choice import Choice, Harm

RUNG = 0.005
"""Distance of neighbouring sizes on the ladder, as a share of the dense cost.

Repair by predicted energies from a distant size would lose much of what the steps have gained.
"""

SHED = 0.5
"""Largest share that a ladder sheds of what a step down of every gene would.

Shedding more leaves little choice. At 0.255 the last rung from 0.285 lost 0.084 nats; the one at 0.27, repaired to
that size by predicted energies, lost 0.027.
"""

Floats = NDArray[np.float64]


class Steps:
    """Steps away from a genome, and the slopes of examples' losses to them.

    Steps to or from dense, and those that make a matrix vanish or appear, are not small and are left out.

    Args:
        space: Search space of the genome.
        genome: Genome at which the slopes were measured.
        kept_EM: Slopes of each example, summed over the `rank_step` components below each matrix's rank.
        cut_EM: Slopes of each example, summed over the `rank_step` components above it.
    """

    def __init__(self, space: SearchSpace, genome: Genome, kept_EM: Floats, cut_EM: Floats) -> None:
        self._space, self._genome = space, genome
        self._steps = list(_steps(space, genome)) if len(kept_EM) > 1 else []
        changes = [step.change(kept_EM, cut_EM) for step in self._steps]
        if changes:
            change_ES = np.stack(changes, axis=1)
            self._slope_S = trust(change_ES) * change_ES.mean(axis=0)
            self._harm = Harm(change_ES)

    @property
    def _sheddable(self) -> int:
        """Cost of all steps down together."""
        return sum(-step.cost for step in self._steps if step.cost < 0)

    def best(self, budget: int) -> tuple[Genome, float] | None:
        """Return the genome after the steps that promise most.

        Exchanges of one or two steps are made until none improves the choice.

        Args:
            budget: Largest allowed cost.

        Returns:
            A genome with genes at most one level away, and the expected change in nats, at most 0 where the original
            genome is within the budget. None if no steps reach the budget.
        """
        if not self._steps:
            return (self._genome, 0.0) if self._space.cost(self._genome) <= budget else None
        choice = Choice(
            slope_S=self._slope_S,
            harm=self._harm,
            cost_S=np.array([step.cost for step in self._steps], dtype=np.int64),
            gene_S=np.array([step.gene for step in self._steps], dtype=np.int64),
            spare=budget - self._space.cost(self._genome),
        )
        if not choice.shed():
            return None
        while choice.improve():
            pass
        levels = list(self._genome)
        for step, taken in zip(self._steps, choice.taken_S, strict=True):
            levels[step.gene] += step.sign if taken else 0
        return tuple(levels), choice.expected

    def ladder(self, share: float) -> dict[float, tuple[Genome, float]]:
        """Return the best genomes of a size and of sizes around it, `RUNG` apart.

        Args:
            share: Size in the middle, as a share of the dense cost.

        Returns:
            By size, what `best` returns for it, the middle size first; empty if no steps reach that one. Smaller
            sizes shed at most half of what the steps can shed.
        """
        rungs: dict[float, tuple[Genome, float]] = {}
        if (most := self.best(self._space.total_cost)) is None:
            return rungs
        largest = max(share, self._space.cost_share(most[0]))  # larger sizes gain nothing
        smallest = self._space.cost_share(self._genome) - SHED * self._sheddable / self._space.total_cost
        for sign, first in ((1, 0), (-1, 1)):
            for number in count(first):
                size = round(share + sign * number * RUNG, 6) if number else share
                useful = not number or (size >= smallest and 0 < size < min(1.0, largest + RUNG))
                if not useful or (found := self.best(self._space.budget(size))) is None:
                    break
                rungs[size] = found
        return rungs


def trust(change_ES: Floats) -> float:
    """Return how far mean changes by many steps hold on other examples.

    The result ranges from 0, all is chance, to 1.

    Args:
        change_ES: Change of the loss of each of E examples, at least two, by each of S steps.

    Returns:
        One minus the ratio of the squared mean expected by chance, the variance over E, to the squared mean found.
        Both are divided by the variance and averaged over the steps. Steps that change all examples alike do not
        count.

    Source: the positive-part estimator of James and Stein, as an empirical Bayes rule (Efron and Morris 1973).
    """
    variance_S = change_ES.var(axis=0, ddof=1)
    varying_S = variance_S > 0
    if not varying_S.any():
        return 1.0
    by_chance = 1 / len(change_ES)
    found = float((change_ES.mean(axis=0)[varying_S] ** 2 / variance_S[varying_S]).mean())
    return max(0.0, 1 - by_chance / found) if found else 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class _Step:
    """One gene one level up or down, the matrices that change, and the added cost."""

    gene: int
    sign: int
    matrices: list[int]
    cost: int

    def change(self, kept_EM: Floats, cut_EM: Floats) -> Floats:
        """Return the change of each example's loss, to first order.

        Added components act with their slope; cut ones stop acting.
        """
        slopes_EM = cut_EM if self.sign > 0 else kept_EM
        change_E: Floats = self.sign * slopes_EM[:, self.matrices].sum(axis=1)
        return change_E


def _steps(space: SearchSpace, genome: Genome) -> Iterator[_Step]:
    for index, (gene, level) in enumerate(zip(space.genes, genome, strict=True)):
        for sign in (1, -1):
            if not 0 <= level + sign < len(gene.levels):
                continue
            if (matrices := _by_a_window(space, gene, level, sign)) is not None:
                cost = space.cost_at(index, level + sign) - space.cost_at(index, level)
                yield _Step(gene=index, sign=sign, matrices=matrices, cost=cost)


def _by_a_window(space: SearchSpace, gene: Gene, level: int, sign: int) -> list[int] | None:
    """Return the members that change if all do so by one window, else None."""
    changing = []
    for member, old, new in zip(gene.members, gene.levels[level], gene.levels[level + sign], strict=True):
        if old != new:
            if min(old, new) <= 0 or new - old != sign * space.rank_step:
                return None
            changing.append(member)
    return changing
