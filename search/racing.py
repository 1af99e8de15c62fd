"""One race: all candidates on a few examples, the best of them on all.

All candidates of a stage see the same examples, so comparisons are paired. Source: the staged selection of
EvoPress, arXiv 2410.14649, section 3.
"""

from collections.abc import Sequence

from search.archive import Memo
from search.outcome import Outcome, Trial
from search.settings import SearchSettings
from search.space import Genome


class Race:
    """Which trials of a generation are still to score, and who came through.

    There is no screen where it could not select (few candidates) or not save (as large as all examples).

    Args:
        candidates: Genomes to compare; repeats are dropped.
        settings: Stage sizes.
        memo: Answers what was scored before.
        limit: Scorings left to spend; the race never asks for more.
        protected: Genome that passes the screen whatever it scores there.
        screened: False sends every candidate straight to all examples.
    """

    def __init__(
        self,
        candidates: Sequence[Genome],
        *,
        settings: SearchSettings,
        memo: Memo,
        limit: int,
        protected: Genome | None = None,
        screened: bool = True,
    ) -> None:
        unique = list(dict.fromkeys(candidates))
        self._settings, self._memo, self._limit, self._protected = settings, memo, limit, protected
        self._screening = (
            screened and settings.screen < settings.full and len(unique) > settings.survivors and limit > 1
        )
        entrants = max(1, limit - settings.survivors) if self._screening else limit
        self._candidates = unique[:entrants]

    def next_trials(self) -> list[Trial]:
        """Trials that need scoring now; empty when the race is over.

        Call it again once the memo holds their outcomes.
        """
        if self._screening:
            trials = self._unknown(self._settings.screen)
            if trials:
                return trials
            self._candidates, self._screening = self._survivors(), False
        return self._unknown(self._settings.full)

    @property
    def finishers(self) -> list[Outcome]:
        """Outcomes on all examples, failures left out, best first."""
        return self._valid(self._settings.full)

    def _unknown(self, examples: int) -> list[Trial]:
        trials = [Trial(genome=genome, examples=examples) for genome in self._candidates]
        unknown = [trial for trial in trials if self._memo.get(trial.genome, examples) is None]
        asked = unknown[: self._limit]
        self._limit -= len(asked)
        return asked

    def _survivors(self) -> list[Genome]:
        ranked = [outcome.genome for outcome in self._valid(self._settings.screen)]
        if self._protected in ranked:
            ranked.remove(self._protected)
            ranked.insert(0, self._protected)
        return ranked[: self._settings.survivors]

    def _valid(self, examples: int) -> list[Outcome]:
        outcomes = [self._memo.get(genome, examples) for genome in self._candidates]
        valid = [outcome for outcome in outcomes if outcome is not None and outcome.failure is None]
        return sorted(valid, key=lambda outcome: outcome.fitness)
