"""Trials and outcomes of the generations in flight.

Several generations are served at once, so that no scorer waits for the last outcome of one. Trials go out oldest
generation first, outcomes come back in any order, and generations land in order. Outcomes are counted and remembered
only when their generation lands. So nothing here depends on the number of scorers and their speed.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ranksieve.search.errors import ConflictError
from ranksieve.search.evolution.archive import Memo
from ranksieve.search.evolution.outcome import Outcome, Trial
from ranksieve.search.space.space import Genome


@dataclass(frozen=True, kw_only=True, slots=True)
class Generation:
    """A generation in flight.

    Args:
        number: Number of the generation; 0 is the seeds.
        target_share: Size that it was bred for.
        candidates: Distinct genomes.
    """

    number: int
    target_share: float
    candidates: tuple[Genome, ...]


class Counter:
    """Generations in flight, with their open trials.

    Hands out trials and checks that outcomes answer them.

    Args:
        memo: Store of outcomes of landed generations.
        examples: Number of examples that every genome is scored on.
        evaluations: Scorings of generations landed before this run.
        tokens: Tokens of these scorings.
    """

    def __init__(self, memo: Memo, examples: int, *, evaluations: int = 0, tokens: int = 0) -> None:
        self.memo, self.evaluations, self.tokens = memo, evaluations, tokens
        self._examples = examples
        self._flight: deque[Generation] = deque()
        self._waiting: deque[Genome] = deque()
        self._wanted: set[Genome] = set()  # waiting or handed out
        self._handed_out: set[Genome] = set()
        self._told: dict[Genome, Outcome] = {}  # not landed

    @property
    def flight(self) -> Sequence[Generation]:
        """Generations in flight, oldest first."""
        return self._flight

    @property
    def reserved(self) -> int:
        """Largest number of scorings that generations in flight may add."""
        return sum(len(generation.candidates) for generation in self._flight)

    def launch(self, generation: Generation) -> None:
        """Offer the candidates of a new generation.

        Those that are known or offered already are left out.
        """
        self._flight.append(generation)
        for genome in generation.candidates:
            if not (self._known(genome) or genome in self._wanted):
                self._wanted.add(genome)
                self._waiting.append(genome)

    def ask(self, limit: int | None = None) -> list[Trial]:
        """Hand out trials, those of the oldest generation first.

        Args:
            limit: Largest number of trials; None for all.

        Returns:
            Distinct trials, each handed out once; empty while the search waits for outcomes.

        Raises:
            ConflictError: The oldest generation is over but has not landed; more may be on offer then.
        """
        if self._over():
            raise ConflictError(
                f"generation {self._flight[0].number} is over; call retire until it returns None, then ask"
            )
        count = len(self._waiting) if limit is None else min(limit, len(self._waiting))
        genomes = [self._waiting.popleft() for _ in range(count)]
        self._handed_out.update(genomes)
        return [Trial(genome=genome, examples=self._examples) for genome in genomes]

    def tell(self, outcomes: Iterable[Outcome]) -> None:
        """Take outcomes of trials handed out, in any order.

        Raises:
            ConflictError: An outcome was not asked for or was told before; earlier ones of the call count.
        """
        for outcome in outcomes:
            if outcome.genome not in self._handed_out or outcome.examples != self._examples:
                raise ConflictError(
                    f"got the outcome of a trial on {outcome.examples} examples that was not asked for, or was told "
                    "before; tell every trial of ask once"
                )
            self._handed_out.remove(outcome.genome)
            self._wanted.remove(outcome.genome)
            self._told[outcome.genome] = outcome

    def land(self) -> tuple[Generation, list[Outcome]] | None:
        """Take the oldest generation out, if all its candidates are scored.

        Returns:
            The generation and the outcomes that no earlier generation had, in the order of its candidates; or None.
        """
        if not self._over():
            return None
        generation = self._flight.popleft()
        fresh = [self._told.pop(genome) for genome in generation.candidates if genome in self._told]
        for outcome in fresh:
            self.memo.add(outcome)
        self.evaluations += len(fresh)
        self.tokens += sum(outcome.tokens for outcome in fresh)
        return generation, fresh

    def _over(self) -> bool:
        """Return whether all candidates of the oldest generation are scored."""
        return bool(self._flight) and all(map(self._known, self._flight[0].candidates))

    def _known(self, genome: Genome) -> bool:
        return genome in self._told or self.memo.get(genome) is not None
