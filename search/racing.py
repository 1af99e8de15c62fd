"""One race: all candidates on a few examples, the best of them on all.

All candidates of a stage see the same examples, so comparisons are paired. A race goes on when every trial of its stage
is answered, in whatever order the answers came. Source: the staged selection of EvoPress, arXiv 2410.14649, section 3.
"""

from collections.abc import Callable, Sequence

from search.outcome import Outcome, Trial
from search.settings import SearchSettings
from search.space import Genome

Order = Callable[[Sequence[Outcome]], Sequence[Outcome]]
"""Outcomes on the same examples, none of them a failure, the most wanted ones first."""


def by_loss(outcomes: Sequence[Outcome]) -> Sequence[Outcome]:
    """The order of models of one size."""
    return sorted(outcomes, key=lambda outcome: outcome.fitness)


class Race:
    """Which trials of a generation are still to score, and who came through.

    There is no screen where it could not select (few candidates) or not save (as large as all examples).

    Args:
        candidates: Genomes to compare; repeats are dropped, and so are the last ones where `limit` demands it.
        settings: Stage sizes.
        known: Answers what was scored before.
        limit: Most scorings to spend; None where the candidates are those of an earlier race.
        protected: Genome that passes the screen whatever it scores there.
        screened: False sends every candidate straight to all examples.
        order: Who goes on from the screen.
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
        limit = len(unique) + settings.survivors if limit is None else limit
        to_screen = min(len(unique), limit - settings.survivors)
        screen_helps = screened and settings.screen < settings.full and len(unique) > settings.survivors
        self.screened = screen_helps and to_screen > settings.survivors
        """Whether there is a screen."""
        to_score = min(limit, settings.survivors) if screen_helps else limit
        self.candidates = unique[: to_screen if self.screened else to_score]
        """Everyone who is scored."""
        self.finished = False
        self._settings, self._known, self._protected = settings, known, protected
        self._order = order
        self._trials: list[Trial] = []
        self._outcomes: dict[Trial, Outcome] = {}
        self._open: set[Trial] = set()
        self._running = self.candidates

    def misses(self, candidates: Sequence[Genome]) -> bool:
        """Whether `limit` kept one of the candidates it was given out."""
        return len(self.candidates) < len(set(candidates))

    @property
    def cost(self) -> int:
        """Most scorings it takes."""
        return len(self.candidates) + (self._settings.survivors if self.screened else 0)

    @property
    def outcomes(self) -> list[Outcome]:
        """Every outcome so far, of both stages, in the order of the trials."""
        return [self._outcomes[trial] for trial in self._trials if trial in self._outcomes]

    @property
    def finishers(self) -> list[Outcome]:
        """Outcomes on all examples, failures left out, lowest loss first."""
        return list(by_loss(self._valid(self._settings.full)))

    def answer(self, trial: Trial) -> Outcome | None:
        """The outcome of one of its trials, or None."""
        return self._outcomes.get(trial)

    def start(self) -> list[Trial]:
        """Trials of the first stage that need scoring; empty when what is known answers the whole race."""
        return self._enter(self._settings.screen if self.screened else self._settings.full)

    def tell(self, outcome: Outcome) -> list[Trial]:
        """Take an outcome, of this race or of another.

        Returns:
            Trials of the next stage that need scoring, where this was the last answer the stage waited for.
        """
        trial = outcome.trial
        if trial not in self._open:
            return []
        self._open.remove(trial)
        self._outcomes[trial] = outcome
        return [] if self._open else self._advance(trial.examples)

    def _enter(self, examples: int) -> list[Trial]:
        known = self._settings.screen if self.screened and examples == self._settings.full else 0
        stage = [Trial(genome=genome, examples=examples, known=known) for genome in self._running]
        self._trials += stage
        unknown = []
        for trial in stage:
            if (outcome := self._known(trial)) is None:
                unknown.append(trial)
            else:
                self._outcomes[trial] = outcome
        self._open = set(unknown)
        return unknown or self._advance(examples)

    def _advance(self, examples: int) -> list[Trial]:
        if examples == self._settings.full:
            self.finished = True
            return []
        self._running = self._survivors()
        return self._enter(self._settings.full)

    def _survivors(self) -> list[Genome]:
        ranked = [outcome.genome for outcome in self._order(self._valid(self._settings.screen))]
        if self._protected in ranked:
            ranked.remove(self._protected)
            ranked.insert(0, self._protected)
        return ranked[: self._settings.survivors]

    def _valid(self, examples: int) -> list[Outcome]:
        trials = (Trial(genome=genome, examples=examples) for genome in self._running)
        outcomes = [self._outcomes[trial] for trial in trials if trial in self._outcomes]
        return [outcome for outcome in outcomes if outcome.failure is None]
