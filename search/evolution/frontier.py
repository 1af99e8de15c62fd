"""Progress of a search over many sizes: a front of size against loss.

Members and parents are chosen as in NSGA-II (`population.FrontPopulation`).
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from ranksieve.search.evolution.archive import Memo
from ranksieve.search.evolution.finalists import Finalist, front_finalists
from ranksieve.search.evolution.outcome import Outcome
from ranksieve.search.evolution.population import FrontPopulation
from ranksieve.search.evolution.progress import SearchProgress
from ranksieve.search.evolution.proposals import Proposer
from ranksieve.search.evolution.schedules import Schedule
from ranksieve.search.space.objectives import Pareto
from ranksieve.search.space.space import SearchSpace

GAIN = 1e-3
"""Least relative growth of the covered area that counts as progress."""


class FrontProgress(SearchProgress):
    """State of a search over many sizes after its retired generations.

    Args:
        space: Search space that prices genomes.
        schedule: Schedule that holds the largest size and ends the search when the front stops growing.
        population: Empty population.
        memo: All outcomes of retired generations.
        objective: Preferred point of the front, and number of points to confirm.
        proposer: Source of seeds, which also brings genomes to a size.
    """

    def __init__(
        self,
        space: SearchSpace,
        schedule: Schedule,
        population: FrontPopulation,
        memo: Memo,
        *,
        objective: Pareto,
        proposer: Proposer,
    ) -> None:
        super().__init__(space, schedule, population, memo, proposer=proposer)
        self._objective = objective
        self._worst_nats: float | None = None  # of the smallest: from where the front's area counts
        self._area = 0.0

    @property
    def moved(self) -> bool:
        """False, as all sizes are searched all the time."""
        return False

    def finalists(self) -> list[Finalist]:
        """Return points spread over the front, largest first."""
        best = self._best()
        shares = [self._space.kept_share(outcome.genome) for outcome in best]
        return front_finalists(best, shares, self._objective.finalists)

    def _select(self, finishers: Sequence[Outcome], target: float) -> tuple[Outcome, bool]:
        """Let the front grow, and choose its incumbent.

        The incumbent is the smallest point that loses at most the objective's points, or else the largest point.
        """
        if finishers:
            self.population.join(finishers, target)
        best, is_first = self._best(), self._worst_nats is None
        if self._worst_nats is None or best[0].fitness > self._worst_nats:  # smaller than any before
            self._worst_nats, self._area = best[0].fitness, 0.0
        area = self._covered(best, self._worst_nats)
        improved = is_first or area > self._area * (1 + GAIN)  # below a single point there is no area
        if improved:
            self._area = area
        good = [outcome for outcome in best if outcome.within(self._objective.points)]
        incumbent = good[0] if good else best[-1]
        self.schedule.observe(
            incumbent, self._space.kept_share(incumbent.genome), target=target, improved=improved
        )
        return incumbent, bool(good)

    def _best(self) -> list[Outcome]:
        """Return the best of every size that no smaller one beats, smallest first.

        Of genomes with the same loss, the cheapest stays.
        """
        falling = sorted(self.population.hall_of_fame, key=self._space.cost, reverse=True)
        by_loss = {outcome.fitness: outcome for outcome in self._memo.scored(falling)}
        return [by_loss[loss] for loss in sorted(by_loss, reverse=True)]

    def _covered(self, best: Sequence[Outcome], worst_nats: float) -> float:
        """Return the area between the front, the largest size and the worst loss.

        Its unit is the share of the dense cost times nats.
        """
        shares = [*(self._space.cost_share(outcome.genome) for outcome in best), self.schedule.target]
        gains = [max(0.0, worst_nats - outcome.fitness) for outcome in best]
        widths = [after - before for before, after in pairwise(shares)]
        return sum(width * gain for width, gain in zip(widths, gains, strict=True))

    def state(self) -> dict[str, Any]:
        """Return the state as plain JSON values for `restore`."""
        return {**super().state(), "front": {"worst_nats": self._worst_nats, "area": self._area}}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore the state that `state` returned.

        Raises:
            ConflictError: The memo lacks outcomes of the population.
        """
        super().restore(state)
        front = state["front"]
        self._worst_nats, self._area = front["worst_nats"], front["area"]
