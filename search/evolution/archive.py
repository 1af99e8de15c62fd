"""Archive of outcomes: no genome is scored twice, and any size can be looked up."""

from collections.abc import Iterable
from functools import cache
from itertools import islice

from ranksieve.search.evolution.outcome import Outcome
from ranksieve.search.space.space import Genome, SearchSpace


class Memo:
    """Outcomes by genome and number of examples.

    Args:
        space: Search space that prices genomes for the front.
        outcomes: Outcomes of earlier scorings, e.g. of an interrupted run.
    """

    def __init__(self, space: SearchSpace, outcomes: Iterable[Outcome] = ()) -> None:
        self._outcomes: dict[tuple[Genome, int], Outcome] = {}
        self._params = cache(space.params)  # fronts are computed often
        for outcome in outcomes:
            self.add(outcome)

    def __len__(self) -> int:
        return len(self._outcomes)

    def add(self, outcome: Outcome) -> None:
        """Add an outcome, replacing an earlier one of the same trial."""
        self._outcomes[outcome.genome, outcome.examples] = outcome

    def get(self, genome: Genome, examples: int) -> Outcome | None:
        """Return the outcome of `genome` on `examples` examples, or None."""
        return self._outcomes.get((genome, examples))

    def front(self, examples: int, first: int | None = None) -> list[Outcome]:
        """Return the outcomes that no smaller or equal genome beats, smallest first.

        Args:
            examples: Number of examples of the outcomes to compare.
            first: Number of earliest outcomes to consider; None for all.

        Returns:
            Outcomes of growing size and falling loss; failures never appear.
        """
        remembered = islice(self._outcomes.values(), first)
        scored = [o for o in remembered if o.examples == examples and o.failure is None]
        front: list[Outcome] = []
        for outcome in sorted(scored, key=lambda o: (self._params(o.genome), o.fitness)):
            if not front or outcome.fitness < front[-1].fitness:
                front.append(outcome)
        return front
