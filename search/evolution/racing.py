"""One race: all candidates on a few examples, the best of them on more, the best of those on all.

All candidates of a stage see the same examples, so comparisons are paired. A race goes on when every trial of its stage
is answered, in whatever order the answers came. Source: the staged selection of EvoPress, arXiv 2410.14649, section 3.
"""

from collections.abc import Callable, Sequence

from ranksieve.search.evolution.outcome import Outcome, Trial
from ranksieve.search.evolution.settings import SearchSettings, Stage
from ranksieve.search.space.space import Genome

Order = Callable[[Sequence[Outcome]], Sequence[Outcome]]
"""Outcomes on the same examples, none of them a failure, the most wanted ones first."""


def by_loss(outcomes: Sequence[Outcome]) -> Sequence[Outcome]:
    """The order of models of one size."""
    return sorted(outcomes, key=lambda outcome: outcome.fitness)


class Race:
    """Which trials of a generation are still to score, and who came through.

    There is no stage where it could not select (few candidates) or not save (as large as all examples).

    Args:
        candidates: Genomes to compare; repeats are dropped, and so are the last ones where `limit` demands it.
        settings: Stage sizes.
        known: Answers what was scored before.
        limit: Most scorings to spend; None where the candidates are those of an earlier race.
        protected: Genome that passes the stages whatever it scores there.
        screened: False sends every candidate straight to all examples.
        order: Who goes on from a stage.
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
        stages = _useful(settings, len(unique)) if screened else ()
        limit = len(unique) + _promotions(stages) if limit is None else limit
        room = limit - _promotions(stages)
        if stages and room <= stages[0].survivors:  # the first could not select; a resume knows none or all
            room, stages = min(limit, settings.survivors), ()
        self.candidates = unique[:room]
        """Everyone who is scored."""
        self.finished = False
        self._stages, self._full = stages, settings.full
        self._cuts = tuple(stage.examples for stage in settings.stages)
        self._known, self._protected, self._order = known, protected, order
        self._trials: list[Trial] = []
        self._outcomes: dict[Trial, Outcome] = {}
        self._open: set[Trial] = set()
        self._running, self._stage = self.candidates, 0

    @property
    def screened(self) -> bool:
        """Whether there are stages before the one on all examples."""
        return bool(self._stages)

    def misses(self, candidates: Sequence[Genome]) -> bool:
        """Whether `limit` kept one of the candidates it was given out."""
        return len(self.candidates) < len(set(candidates))

    @property
    def cost(self) -> int:
        """Most scorings it takes."""
        return len(self.candidates) + _promotions(self._stages)

    @property
    def outcomes(self) -> list[Outcome]:
        """Every outcome so far, of all stages, in the order of the trials."""
        return [self._outcomes[trial] for trial in self._trials if trial in self._outcomes]

    @property
    def finishers(self) -> list[Outcome]:
        """Outcomes on all examples, failures left out, lowest loss first."""
        return list(by_loss(self._valid(self._full)))

    def answer(self, trial: Trial) -> Outcome | None:
        """The outcome of one of its trials, or None."""
        return self._outcomes.get(trial)

    def start(self) -> list[Trial]:
        """Trials of the first stage that need scoring; empty when what is known answers the whole race."""
        cuts = tuple(cut for cut in self._cuts if cut < self._examples)
        known = self._stages[self._stage - 1].examples if self._stage else 0
        screening = self._stage < len(self._stages)
        stage = [
            Trial(genome=genome, examples=self._examples, known=known, cuts=cuts, screening=screening)
            for genome in self._running
        ]
        self._trials += stage
        unknown = []
        for trial in stage:
            if (outcome := self._known(trial)) is None:
                unknown.append(trial)
            else:
                self._outcomes[trial] = outcome
        self._open = set(unknown)
        return unknown or self._advance()

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
        return [] if self._open else self._advance()

    @property
    def _examples(self) -> int:
        """Of the stage that is run."""
        return self._full if self._stage == len(self._stages) else self._stages[self._stage].examples

    def _advance(self) -> list[Trial]:
        if self._stage == len(self._stages):
            self.finished = True
            return []
        self._running = self._survivors()
        self._stage += 1
        return self.start()

    def _survivors(self) -> list[Genome]:
        ranked = [outcome.genome for outcome in self._order(self._valid(self._examples))]
        if self._protected in ranked:
            ranked.remove(self._protected)
            ranked.insert(0, self._protected)
        return ranked[: self._stages[self._stage].survivors]

    def _valid(self, examples: int) -> list[Outcome]:
        trials = (Trial(genome=genome, examples=examples) for genome in self._running)
        outcomes = [self._outcomes[trial] for trial in trials if trial in self._outcomes]
        return [outcome for outcome in outcomes if outcome.failure is None]


def room_of(settings: SearchSettings, candidates: int, limit: int) -> int:
    """How many of so many candidates, the first of them, a race scores that has so many scorings."""
    race = Race([(i,) for i in range(candidates)], settings=settings, known=lambda _: None, limit=limit)
    return len(race.candidates)


def _useful(settings: SearchSettings, candidates: int) -> tuple[Stage, ...]:
    """The stages that so many candidates go through before they are scored on all examples."""
    stages = []
    for stage in settings.stages:
        if stage.examples < settings.full and stage.survivors < candidates:
            stages.append(stage)
            candidates = stage.survivors
    return tuple(stages)


def _promotions(stages: Sequence[Stage]) -> int:
    """Most scorings on top of those of the first stage."""
    return sum(stage.survivors for stage in stages)
