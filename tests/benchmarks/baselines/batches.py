"""Searches written as generators of batches, asked and told like `search.evolution.evolution.Evolution`.

A strategy yields the trials that it wants next and is sent their outcomes, so it reads as its paper's pseudocode; who
scores, how many at once and in which order is none of its business.
"""

from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass

from ranksieve.search.errors import ConflictError
from ranksieve.search.evolution.outcome import Outcome, Trial
from ranksieve.search.space.space import Genome


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """Everyone still in is scored on the first `examples` examples; the best `survivors` go on."""

    examples: int
    survivors: int


STALE_BATCHES = 1000
"""After so many in a row with nothing new in them a strategy is over: it draws from a space that it has used up."""

Strategy = Generator[Sequence[Trial], list[Outcome], None]
"""Yields trials, is sent their outcomes in the same order; ends when it has nothing left to try."""

Race = Generator[Sequence[Trial], list[Outcome], list[Outcome]]
"""A part of a strategy; returns the outcomes of those who came through."""


def race(candidates: Iterable[Genome], stages: Sequence[Stage]) -> Race:
    """Scores candidates stage by stage, on more examples each time.

    Args:
        candidates: Genomes to compare; repeats are dropped.
        stages: At least one.

    Returns:
        The outcomes of the last stage's survivors, best first; failures left out.
    """
    running = list(dict.fromkeys(candidates))
    valid: list[Outcome] = []
    for stage in stages:
        outcomes = yield [Trial(genome=genome, examples=stage.examples) for genome in running]
        valid = sorted((o for o in outcomes if o.failure is None), key=lambda outcome: outcome.fitness)
        valid = valid[: stage.survivors]
        running = [outcome.genome for outcome in valid]
    return valid


class BatchSearch:
    """Serves one strategy: its trials go out, their outcomes come back in any order.

    No trial goes out twice: what was scored before is answered from memory. A strategy that goes on for ever ends where
    it proposes nothing new any more (`STALE_BATCHES`).

    Args:
        strategy: Not started yet.
    """

    def __init__(self, strategy: Strategy) -> None:
        self._strategy = strategy
        self._outcomes: dict[Trial, Outcome] = {}
        self._waiting: list[Trial] = []
        self._handed_out: set[Trial] = set()
        self.finished = False
        """Whether there is nothing left to score."""
        self.tokens = 0
        """Tokens run through the candidates so far."""
        self._batch: Sequence[Trial] = ()
        self._advance(first=True)

    @property
    def evaluations(self) -> int:
        """Scorings so far, of any stage."""
        return len(self._outcomes)

    def retire(self) -> None:
        """Nothing: a strategy closes its batches by itself."""

    def ask(self, limit: int | None = None) -> list[Trial]:
        """Trials to score.

        Args:
            limit: How many at most; None for all there are.

        Returns:
            Distinct trials, none of them handed out before; empty while the strategy waits for outcomes.
        """
        count = len(self._waiting) if limit is None else limit
        trials, self._waiting = self._waiting[:count], self._waiting[count:]
        self._handed_out.update(trials)
        return trials

    def tell(self, outcomes: Iterable[Outcome]) -> None:
        """Take the outcomes of trials asked for, some or all, in any order.

        Raises:
            ConflictError: One is not of a trial asked for, or was told before.
        """
        for outcome in outcomes:
            if outcome.trial not in self._handed_out:
                raise ConflictError(
                    f"got the outcome of a trial on {outcome.examples} examples that was not asked for, or was told "
                    "before; tell every trial of ask once"
                )
            self._handed_out.remove(outcome.trial)
            self._outcomes[outcome.trial] = outcome
            self.tokens += outcome.tokens
        if not (self._waiting or self._handed_out):
            self._advance()

    def _advance(self, *, first: bool = False) -> None:
        """Run the strategy up to the next batch with a trial that is not known, if there is one."""
        for _ in range(STALE_BATCHES):
            try:
                if first:
                    self._batch, first = next(self._strategy), False
                else:
                    self._batch = self._strategy.send([self._outcomes[trial] for trial in self._batch])
            except StopIteration:
                self.finished = True
                return
            self._waiting = [trial for trial in dict.fromkeys(self._batch) if trial not in self._outcomes]
            if self._waiting:
                return
        self._strategy.close()
        self.finished = True
