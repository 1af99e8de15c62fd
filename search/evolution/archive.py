"""Everything ever scored: no genome is scored twice, and any size can be asked for afterwards."""

from collections.abc import Iterable
from functools import cache
from itertools import islice

from ranksieve.search.evolution.outcome import Outcome
from ranksieve.search.space.space import Genome, SearchSpace


class Memo:
    """Outcomes by genome and number of examples.

    Args:
        space: Prices genomes for the front.
        outcomes: What was scored before, e.g. by an interrupted run.
    """

    def __init__(self, space: SearchSpace, outcomes: Iterable[Outcome] = ()) -> None:
        self._outcomes: dict[tuple[Genome, int], Outcome] = {}
        self._params = cache(space.params)  # fronts are wanted again and again
        for outcome in outcomes:
            self.add(outcome)

    def __len__(self) -> int:
        return len(self._outcomes)

    def add(self, outcome: Outcome) -> None:
        """Remember an outcome, in place of an earlier one of the same trial."""
        self._outcomes[outcome.genome, outcome.examples] = outcome

    def get(self, genome: Genome, examples: int) -> Outcome | None:
        """What `genome` scored on `examples` examples, or None if it has not been."""
        return self._outcomes.get((genome, examples))

    def front(self, examples: int, first: int | None = None) -> list[Outcome]:
        """The outcomes on `examples` examples that no smaller or equal genome beats, smallest first.

        Args:
            examples: Only outcomes on the same examples compare.
            first: Only so many of the outcomes, those remembered first; None for all.

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
