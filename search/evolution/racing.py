"""Races: all candidates on a few examples, the best of them on all examples.

All candidates of a stage see the same examples, so comparisons are paired. A race continues when every trial of the
screen is answered, in any order. Source: the staged selection of EvoPress, arXiv 2410.14649, section 3.
"""

from collections.abc import Callable, Sequence

from ranksieve.search.evolution.outcome import Outcome, Trial
from ranksieve.search.evolution.settings import SearchSettings
from ranksieve.search.space.space import Genome

Order = Callable[[Sequence[Outcome]], Sequence[Outcome]]
"""Sorts outcomes on the same examples, without failures, most wanted first."""


def by_loss(outcomes: Sequence[Outcome]) -> Sequence[Outcome]:
    """Sort outcomes of one size by loss."""
    return sorted(outcomes, key=lambda outcome: outcome.fitness)


class Race:
    """Race of a generation's candidates: a screen, then all examples.

    There is no screen where it could not select (few candidates) or not save (as large as all examples).

    Args:
        candidates: Genomes to compare; repeats are dropped, and so are the last ones where `limit` requires it.
        settings: Numbers of screen examples, all examples and survivors.
        known: Function that returns known outcomes.
        limit: Largest number of scorings; None where the candidates are those of an earlier race.
        protected: Genome that passes the screen with any score.
        screened: False sends every candidate straight to all examples.
        order: Order in which candidates pass the screen.
    """

    def __init__(
        self,
        candidates: Sequence[Genome],
        *,
        settings: SearchSettings,
        known: Callable[[Trial], Outcome | None],
        limit: int | None = None,
        protected: Genome | None = None,
        screened: bool = True,
        order: Order = by_loss,
    ) -> None:
        unique = list(dict.fromkeys(candidates))
        survivors = settings.survivors
        screened = screened and settings.screen < settings.full and survivors < len(unique)
        room = limit
        if screened and limit is not None:
            room = limit - survivors
            if room <= survivors:  # the screen could not select
                room, screened = min(limit, survivors), False
        self.candidates = unique[:room]
        """Genomes that are scored."""
        self.screened = screened
        """Whether there is a screen before all examples."""
        self.finished = False
        self._settings, self._known, self._protected, self._order = settings, known, protected, order
        self._trials: list[Trial] = []
        self._outcomes: dict[Trial, Outcome] = {}
        self._open: set[Trial] = set()
        self._running, self._screening = self.candidates, screened

    @property
    def cost(self) -> int:
        """Largest number of scorings of the race."""
        return len(self.candidates) + (self._settings.survivors if self.screened else 0)

    @property
    def outcomes(self) -> list[Outcome]:
        """Outcomes so far, of both stages, in the order of the trials."""
        return [self._outcomes[trial] for trial in self._trials if trial in self._outcomes]

    @property
    def finishers(self) -> list[Outcome]:
        """Outcomes on all examples without failures, lowest loss first."""
        return list(by_loss(self._valid(self._settings.full)))

    def answer(self, trial: Trial) -> Outcome | None:
        """Return the outcome of one of the race's trials, or None."""
        return self._outcomes.get(trial)

    def start(self) -> list[Trial]:
        """Return the trials of the present stage that need scoring.

        It is empty when known outcomes answer the whole race.
        """
        screen, screening = self._settings.screen, self._screening
        known = screen if self.screened and not screening else 0
        cut = screen if screen < self._examples else 0
        trials = [
            Trial(genome=genome, examples=self._examples, known=known, cut=cut, screening=screening)
            for genome in self._running
        ]
        self._trials += trials
        unknown = []
        for trial in trials:
            if (outcome := self._known(trial)) is None:
                unknown.append(trial)
            else:
                self._outcomes[trial] = outcome
        self._open = set(unknown)
        return unknown or self._advance()

    def tell(self, outcome: Outcome) -> list[Trial]:
        """Take an outcome, of this race or of another.

        Returns:
            Trials of survivors that need scoring, if this was the last outcome that the screen waited for.
        """
        trial = outcome.trial
        if trial not in self._open:
            return []
        self._open.remove(trial)
        self._outcomes[trial] = outcome
        return [] if self._open else self._advance()

    @property
    def _examples(self) -> int:
        """Number of examples of the present stage."""
        return self._settings.screen if self._screening else self._settings.full

    def _advance(self) -> list[Trial]:
        if not self._screening:
            self.finished = True
            return []
        self._running, self._screening = self._survivors(), False
        return self.start()

    def _survivors(self) -> list[Genome]:
        ranked = [outcome.genome for outcome in self._order(self._valid(self._examples))]
        if self._protected in ranked:
            ranked.remove(self._protected)
            ranked.insert(0, self._protected)
        return ranked[: self._settings.survivors]

    def _valid(self, examples: int) -> list[Outcome]:
        trials = (Trial(genome=genome, examples=examples) for genome in self._running)
        outcomes = [self._outcomes[trial] for trial in trials if trial in self._outcomes]
        return [outcome for outcome in outcomes if outcome.failure is None]


def room_of(settings: SearchSettings, candidates: int, limit: int) -> int:
    """Return how many of the first candidates a race of `limit` scorings scores."""
    race = Race([(i,) for i in range(candidates)], settings=settings, known=lambda _: None, limit=limit)
    return len(race.candidates)
