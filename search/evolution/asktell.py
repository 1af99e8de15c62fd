"""The counter between a search and its scorers: trials go out, outcomes come back, all are counted.

Several generations are served at once, so that nobody waits for the last outcome of a stage. Trials go out oldest
generation first, outcomes come back in any order, and generations land in order. What a trial scores does not depend
on who wanted it first, and what is counted and remembered is counted at a landing: so nothing here depends on the
number of scorers and their speed.
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
        number: Counted from 0, the seeds.
        target_share: Size it was bred for.
        race: Its candidates and how far they are.
    """

    number: int
    target_share: float
    race: Race


class Counter:
    """Holds the generations in flight, hands out their trials and checks that what comes back answers them.

    Args:
        memo: Where outcomes are kept once their generation has landed.
        evaluations: Scorings of generations landed before this run.
        tokens: Tokens of those.
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
        """The generations in flight, oldest first."""
        return self._flight

    @property
    def reserved(self) -> int:
        """Most scorings that the generations in flight add to `evaluations`."""
        return sum(generation.race.cost for generation in self._flight)

    def known(self, trial: Trial) -> Outcome | None:
        """What a trial scored, as far as it was told."""
        answers = (generation.race.answer(trial) for generation in self._flight)
        return self.memo.get(trial.genome, trial.examples) or next(filter(None, answers), None)

    def launch(self, generation: Generation) -> None:
        """Put the trials of a new generation on offer, but for those that are known or wanted already."""
        trials = generation.race.start()
        self._flight.append(generation)
        self._offer(generation, trials)

    def ask(self, limit: int | None = None) -> list[Trial]:
        """Hand out trials, those of the oldest generation first.

        Args:
            limit: How many at most; None for all.

        Returns:
            Distinct trials, each handed out once; empty while everything depends on outcomes not told yet.

        Raises:
            ConflictError: The oldest generation is over and has not landed: more may be on offer when it has.
        """
        if self._flight and self._flight[0].race.finished:
            raise ConflictError(
                f"generation {self._flight[0].number} is over; retire until there is nothing to retire, then ask"
            )
        count = len(self._waiting) if limit is None else min(limit, len(self._waiting))
        trials = [heappop(self._waiting)[-1] for _ in range(count)]
        self._handed_out.update(trials)
        return trials

    def tell(self, outcomes: Iterable[Outcome]) -> None:
        """Take outcomes of trials handed out, in any order.

        Raises:
            ConflictError: One of them was not asked for, or has been told; those before it count.
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
            It and the outcomes that no generation before it had, in the order of its trials; or None.
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
