"""Trials and outcomes of the generations in flight.

Several generations are served at once, so that no scorer waits for the last outcome of a stage. Trials go out oldest
generation first, outcomes come back in any order, and generations land in order. The score of a trial does not depend
on which generation asked for it first. Outcomes are counted and remembered only when their generation lands. So
nothing here depends on the number of scorers and their speed.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush

from ranksieve.search.errors import ConflictError
from ranksieve.search.evolution.archive import Memo
from ranksieve.search.evolution.outcome import Outcome, Trial
from ranksieve.search.evolution.racing import Race


@dataclass(frozen=True, kw_only=True, slots=True)
class Generation:
    """A generation in flight.

    Args:
        number: Number of the generation; 0 is the seeds.
        target_share: Size that it was bred for.
        race: Its candidates and their progress.
    """

    number: int
    target_share: float
    race: Race


class Counter:
    """Generations in flight, with their open trials.

    Hands out trials and checks that outcomes answer them.

    Args:
        memo: Store of outcomes of landed generations.
        evaluations: Scorings of generations landed before this run.
        tokens: Tokens of these scorings.
    """

    def __init__(self, memo: Memo, *, evaluations: int = 0, tokens: int = 0) -> None:
        self.memo, self.evaluations, self.tokens = memo, evaluations, tokens
        self._flight: deque[Generation] = deque()
        self._waiting: list[tuple[int, int, Trial]] = []
        self._wanted: set[Trial] = set()  # waiting or handed out
        self._handed_out: set[Trial] = set()
        self._offered = 0

    @property
    def flight(self) -> Sequence[Generation]:
        """Generations in flight, oldest first."""
        return self._flight

    @property
    def reserved(self) -> int:
        """Largest number of scorings that generations in flight may add."""
        return sum(generation.race.cost for generation in self._flight)

    def known(self, trial: Trial) -> Outcome | None:
        """Return the outcome of a trial, if known."""
        answers = (generation.race.answer(trial) for generation in self._flight)
        return self.memo.get(trial.genome, trial.examples) or next(filter(None, answers), None)

    def launch(self, generation: Generation) -> None:
        """Offer the trials of a new generation.

        Trials that are known or offered already are left out.
        """
        trials = generation.race.start()
        self._flight.append(generation)
        self._offer(generation, trials)

    def ask(self, limit: int | None = None) -> list[Trial]:
        """Hand out trials, those of the oldest generation first.

        Args:
            limit: Largest number of trials; None for all.

        Returns:
            Distinct trials, each handed out once; empty while the search waits for outcomes.

        Raises:
            ConflictError: The oldest generation is over but has not landed; more may be on offer then.
        """
        if self._flight and self._flight[0].race.finished:
            raise ConflictError(
                f"generation {self._flight[0].number} is over; call retire until it returns None, then ask"
            )
        count = len(self._waiting) if limit is None else min(limit, len(self._waiting))
        trials = [heappop(self._waiting)[-1] for _ in range(count)]
        self._handed_out.update(trials)
        return trials

    def tell(self, outcomes: Iterable[Outcome]) -> None:
        """Take outcomes of trials handed out, in any order.

        Raises:
            ConflictError: An outcome was not asked for or was told before; earlier ones of the call count.
        """
        for outcome in outcomes:
            trial = outcome.trial
            if trial not in self._handed_out:
                raise ConflictError(
                    f"got the outcome of a trial on {trial.examples} examples that was not asked for, or was told "
                    "before; tell every trial of ask once"
                )
            self._handed_out.remove(trial)
            self._wanted.remove(trial)
            for generation in self._flight:
                self._offer(generation, generation.race.tell(outcome))

    def land(self) -> tuple[Generation, list[Outcome]] | None:
        """Take the oldest generation out, if its race is over.

        Returns:
            The generation and the outcomes that no earlier generation had, in the order of its trials; or None.
        """
        if not self._flight or not self._flight[0].race.finished:
            return None
        generation = self._flight.popleft()
        outcomes = generation.race.outcomes
        fresh = [outcome for outcome in outcomes if self.memo.get(outcome.genome, outcome.examples) is None]
        for outcome in fresh:
            self.memo.add(outcome)
        self.evaluations += len(fresh)
        self.tokens += sum(outcome.tokens for outcome in fresh)
        return generation, fresh

    def _offer(self, generation: Generation, trials: Iterable[Trial]) -> None:
        for trial in trials:
            if trial not in self._wanted:
                self._wanted.add(trial)
                heappush(self._waiting, (generation.number, self._offered, trial))
                self._offered += 1
