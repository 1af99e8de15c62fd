"""Choice of steps to take together, within a budget.

Steps are judged by their expected change of the loss and by the covariance of their changes, as in
`search.start.descent`. Exchanges of one or two steps improve the choice until none does.

Legend: E examples, G genes, S steps, K some of the steps.
"""

import math
from collections.abc import Sequence
from itertools import chain

import numpy as np
from numpy.typing import NDArray

HARM = 2.5
"""Loss per variance of its change.

In 96 moves of several steps, the loss rose by 1.7 times the variance of its change, 1.5 times that of the slopes.
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


class Harm:
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


class Choice:
    """A set of steps, at most one per gene, within a budget.

    Args:
        slope_S: Expected change of the loss to first order.
        harm: Loss beyond the first order.
        cost_S: Cost of each step.
        gene_S: Gene of each step.
        spare: Cost that may be spent.
    """

    def __init__(
        self, *, slope_S: Floats, harm: Harm, cost_S: Integers, gene_S: Integers, spare: int
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
