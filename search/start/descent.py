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

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, count

import numpy as np
from numpy.typing import NDArray

from ranksieve.search.space.space import Gene, Genome, SearchSpace

HARM = 2.5
"""Loss per variance of its change.

In 96 moves of several steps, the loss rose by 1.7 times the variance of its change, 1.5 times that of the slopes.
"""

RUNG = 0.005
"""Distance of neighbouring sizes on the ladder, as a share of the dense cost.

Repair by predicted energies from a distant size would lose much of what the steps have gained.
"""

SHED = 0.5
"""Largest share that a ladder sheds of what a step down of every gene would.

Shedding more leaves little choice. At 0.255 the last rung from 0.285 lost 0.084 nats; the one at 0.27, repaired to
that size by predicted energies, lost 0.027.
"""

PRECISION_NATS = 1e-9
"""Smallest improvement of the expected change that is worth a step."""

MANY = 1024
"""Number of steps above which not all pairs are weighed in every exchange.

Weighing all pairs of more steps takes hours and gigabytes. A mixture of experts has ten thousand matrices and more.
"""

NEAR = 512
"""Number of steps that form pairs, where there are many steps.

Half of them cost; the other half frees the cost of others.
"""

AT_ONCE = 0.01
"""Share of many steps to exchange at once.

Used where that promises more than the best exchange alone.
"""

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Bools = NDArray[np.bool_]


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
            self._harm = _Harm(change_ES)

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
        choice = _Choice(
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


class _Harm:
    """Loss beyond the first order: `HARM` times the covariance of changes, S×S.

    The matrix is not written out where there are many steps.

    Args:
        change_ES: Change of the loss of each example by each step.
    """

    def __init__(self, change_ES: Floats) -> None:
        self._harm_SS: Floats | None = None
        if change_ES.shape[1] <= MANY:
            self._harm_SS = HARM * np.atleast_2d(np.cov(change_ES.T, bias=True))
            own_S = np.diag(self._harm_SS)
        else:
            self._root_ES = (change_ES - change_ES.mean(axis=0)) * math.sqrt(HARM / len(change_ES))
            own_S = (self._root_ES**2).sum(axis=0)
        self.own_S: Floats = own_S
        """Harm of each step alone."""

    def with_taken(self, taken_S: Bools) -> Floats:
        """Return the summed harm of each step with all taken ones."""
        harm_S: Floats
        if self._harm_SS is not None:
            harm_S = self._harm_SS @ taken_S
        else:
            harm_S = self._root_ES[:, taken_S].sum(axis=1) @ self._root_ES
        return harm_S

    def among(self, index_K: Integers) -> Floats:
        """Return the harm of some steps with one another, K×K."""
        if self._harm_SS is not None:
            return self._harm_SS[np.ix_(index_K, index_K)]
        root_EK = self._root_ES[:, index_K]
        harm_KK: Floats = root_EK.T @ root_EK
        return harm_KK


_Exchange = tuple[float, list[int]]
"""Change of the expected change, and the steps to take or give back together."""


class _Choice:
    """A set of steps, at most one per gene, within a budget.

    Args:
        slope_S: Expected change of the loss to first order.
        harm: Loss beyond the first order.
        cost_S: Cost of each step.
        gene_S: Gene of each step.
        spare: Cost that may be spent.
    """

    def __init__(
        self, *, slope_S: Floats, harm: _Harm, cost_S: Integers, gene_S: Integers, spare: int
    ) -> None:
        self._slope_S, self._harm, self._cost_S, self._gene_S = slope_S, harm, cost_S, gene_S
        self._spare = spare
        self._many = len(slope_S) > MANY
        self._at_once = math.ceil(AT_ONCE * len(slope_S)) if self._many else 1
        self.taken_S = np.zeros(len(slope_S), dtype=bool)
        """Which steps are in the set."""

    @property
    def expected(self) -> float:
        """Expected change of the loss, in nats."""
        return float((self._slope_S + self._harm.with_taken(self.taken_S)) @ self.taken_S)

    def shed(self) -> bool:
        """Take steps down until the rest is within the budget; return whether it is.

        The steps of least expected loss per cost come first. If all is within the budget already, none are taken.
        """
        while self._spare < 0:
            down_S = (self._cost_S < 0) & ~self.taken_S & ~self._rivals()
            if not down_S.any():
                return False
            change_S = self._slope_S + 2 * self._harm.with_taken(self.taken_S) + self._harm.own_S
            price_S = np.where(down_S, change_S / np.maximum(-self._cost_S, 1), np.inf)
            for step in _lowest(price_S, min(self._at_once, int(down_S.sum()))):
                if self._spare < 0:
                    self._spare -= int(self._cost_S[step])
                    self.taken_S[step] = True
        return True

    def improve(self) -> bool:
        """Exchange the one or two steps that lower the expected change most.

        Return whether any do. Where there are many steps, exchange more of those that lower it, if that lowers it
        further.
        """
        rival_S, sign_S = self._rivals(), np.where(self.taken_S, -1, 1)
        cost_S = sign_S * self._cost_S
        change_S = sign_S * (self._slope_S + 2 * self._harm.with_taken(self.taken_S)) + self._harm.own_S
        alone_S = np.where(rival_S | (cost_S > self._spare), np.inf, change_S)
        near_K = self._near(np.where(rival_S, np.inf, change_S), cost_S)
        sign_K, change_K, cost_K = sign_S[near_K], change_S[near_K], cost_S[near_K]
        rival_K, gene_K = rival_S[near_K], self._gene_S[near_K]
        change_KK = change_K[:, None] + change_K + 2 * np.outer(sign_K, sign_K) * self._harm.among(near_K)
        forbidden_KK = rival_K[:, None] | rival_K | (gene_K[:, None] == gene_K)
        pairs_KK = np.where(forbidden_KK | (cost_K[:, None] + cost_K > self._spare), np.inf, change_KK)
        found: list[_Exchange] = [
            (float(alone_S[step]), [int(step)]) for step in _lowest(alone_S, self._at_once)
        ]
        for pair in _lowest(pairs_KK.ravel(), 2 * NEAR if self._many else 1):
            found.append((float(pairs_KK.flat[pair]), near_K[list(divmod(int(pair), len(near_K)))].tolist()))
        found.sort(key=lambda exchange: exchange[0])
        promising = [exchange for exchange in found if exchange[0] <= -PRECISION_NATS]
        if promising:
            self._exchange(promising, cost_S)
        return bool(promising)

    def _rivals(self) -> Bools:
        """Return which steps have another step of their gene in the set."""
        same_gene_S = np.isin(self._gene_S, self._gene_S[self.taken_S])
        return same_gene_S & ~self.taken_S

    def _near(self, change_S: Floats, cost_S: Integers) -> Integers:
        """Return the sorted indices of the steps that may form pairs."""
        if not self._many:
            return np.arange(len(change_S))
        halves = (
            _lowest(np.where(paid_S, change_S, np.inf), NEAR // 2) for paid_S in (cost_S > 0, cost_S <= 0)
        )
        return np.unique(np.concatenate(list(halves)))

    def _exchange(self, found: Sequence[_Exchange], cost_S: Integers) -> None:
        """Make the best exchange, where there are many steps together with others.

        The others must leave its genes alone and must promise more together than the best alone. If they do not, half
        of them are left out, until they do.
        """
        chosen: list[list[int]] = []
        genes: set[int] = set()
        spare = self._spare
        for _, steps in found:
            cost, own = int(cost_S[steps].sum()), set(self._gene_S[steps].tolist())
            if len(chosen) < self._at_once and cost <= spare and not own & genes:
                chosen.append(steps)
                genes |= own
                spare -= cost
        wanted = self.expected + found[0][0]
        while True:
            together = [*chain(*chosen)]
            self.taken_S[together] ^= True
            if len(chosen) == 1 or self.expected <= wanted:
                break
            self.taken_S[together] ^= True
            chosen = chosen[: len(chosen) // 2]
        self._spare -= int(cost_S[together].sum())


def _lowest(values: Floats, count: int) -> Integers:
    """Return the indices of the `count` lowest values, lowest first."""
    count = min(count, len(values))
    if count == 1:
        return np.array([values.argmin()])
    lowest = np.argpartition(values, count - 1)[:count]
    return lowest[np.argsort(values[lowest], kind="stable")]
