"""Archive of outcomes: no genome is scored twice, and any size can be looked up."""

from collections.abc import Iterable
from functools import cache

from ranksieve.search.evolution.outcome import Outcome
from ranksieve.search.space.space import Genome, SearchSpace


class Memo:
    """Outcomes by genome.

    Args:
        space: Search space that prices genomes for the front.
        outcomes: Outcomes of earlier scorings, e.g. of an interrupted run.
    """

    def __init__(self, space: SearchSpace, outcomes: Iterable[Outcome] = ()) -> None:
        self._outcomes: dict[Genome, Outcome] = {}
        self._params = cache(space.params)  # fronts are computed often
        for outcome in outcomes:
            self.add(outcome)

    def __len__(self) -> int:
        return len(self._outcomes)

    def add(self, outcome: Outcome) -> None:
        """Add an outcome, replacing an earlier one of the same genome."""
        self._outcomes[outcome.genome] = outcome

    def get(self, genome: Genome) -> Outcome | None:
        """Return the outcome of `genome`, or None."""
        return self._outcomes.get(genome)

    def scored(self, genomes: Iterable[Genome]) -> list[Outcome]:
        """Return the outcomes of those of some genomes that could be scored."""
        found = (self._outcomes.get(genome) for genome in genomes)
        return [outcome for outcome in found if outcome is not None and outcome.failure is None]

    def front(self) -> list[Outcome]:
        """Return the outcomes that no smaller or equal genome beats, smallest first.

        Returns:
            Outcomes of growing size and falling loss; failures never appear.
        """
        front: list[Outcome] = []
        scored = self.scored(self._outcomes)
        for outcome in sorted(scored, key=lambda o: (self._params(o.genome), o.fitness)):
            if not front or outcome.fitness < front[-1].fitness:
                front.append(outcome)
        return front
