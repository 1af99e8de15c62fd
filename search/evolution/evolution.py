"""The genetic search, by ask and tell, so that scoring happens elsewhere.

`ask` hands out trials, `tell` takes their outcomes in any order, `retire` closes generations one after another.

A generation has parents by tournament, and children by crossover and mutation or removal, repaired to the
target size. The best of parents and children live on. A schedule sets the target size
(`search.evolution.schedules`).

Generations overlap: number g is bred when number g - overlap is retired, from what is known then. Its trials fill the
time in which others wait for their last outcomes. It is fixed which generation knows of which, so a run
is a function of its seed, whatever the number of scorers and their speed.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ranksieve.search.evolution.archive import Memo
from ranksieve.search.evolution.asktell import Counter, Generation
from ranksieve.search.evolution.breeding import Breeder, Operators, stream
from ranksieve.search.evolution.finalists import Finalist
from ranksieve.search.evolution.frontier import FrontProgress
from ranksieve.search.evolution.outcome import Outcome, Trial
from ranksieve.search.evolution.population import FrontPopulation, Population
from ranksieve.search.evolution.progress import BEST_FINALISTS, SearchProgress
from ranksieve.search.evolution.proposals import FrontProposer, Proposer
from ranksieve.search.evolution.record import GenerationRecord
from ranksieve.search.evolution.schedules import schedule_for
from ranksieve.search.evolution.settings import SearchSettings
from ranksieve.search.evolution.snapshot import STATE_VERSION, check, fingerprint, flight_json, prices
from ranksieve.search.space.objectives import Objective, Pareto
from ranksieve.search.space.prices import Energies, Prices
from ranksieve.search.space.sizes import Sizes
from ranksieve.search.space.space import Genome, SearchSpace


class Evolution:
    """A genetic search that hands out trials and takes their outcomes.

    A search that continues from a state does so bit for bit as if it had not stopped, if all other arguments are as
    at the start.

    Args:
        space: Space of all genomes.
        energies: Squared singular values per matrix, in units of the task loss, descending.
        objective: Objective of the search.
        settings: Settings of the search.
        seeds: Additional genomes given by the user to start from.
        memo: Known outcomes, which are not asked for again; with a state, all outcomes of the records up to it.
        state: State that an earlier search returned, also after a round trip through JSON.

    Raises:
        InputError: The energies do not fit the space.
        ConflictError: The state is of another version of this program or of another search, or the memo is incomplete.
    """

    def __init__(
        self,
        space: SearchSpace,
        energies: Energies,
        objective: Objective,
        settings: SearchSettings,
        *,
        seeds: Sequence[Genome] = (),
        memo: Iterable[Outcome] = (),
        state: Mapping[str, Any] | None = None,
    ) -> None:
        known = list(memo)
        self._space, self._settings = space, settings
        self._fingerprint, self._costs = fingerprint(space, objective, settings), prices(space)
        self._prices, self._memo = Prices(space, energies), Memo(space, known)
        self._schedule = schedule_for(objective, space, patience=settings.patience)
        self._proposer, self._progress = self._parts(objective, seeds)
        self._counter = Counter(self._memo, settings.full)
        self._seen = {outcome.genome for outcome in known}  # scored, or about to be
        self._bred = -1  # number of the last generation launched
        if state is not None:
            self._restore(state)
        self._breed()

    def _parts(self, objective: Objective, seeds: Sequence[Genome]) -> tuple[Proposer, SearchProgress]:
        """Return the source of candidates and the state that takes in their outcomes."""
        proposer = Proposer(
            prices=self._prices,
            schedule=self._schedule,
            settings=self._settings,
            given=seeds,
        )
        if isinstance(objective, Pareto):
            sizes = Sizes(self._space, objective)
            members = max(self._settings.population, objective.sizes)
            front_proposer = FrontProposer(**vars(proposer), sizes=sizes)
            return front_proposer, FrontProgress(
                self._space,
                self._schedule,
                FrontPopulation(members, sizes.place),
                self._memo,
                objective=objective,
                proposer=front_proposer,
            )
        return proposer, SearchProgress(
            self._space,
            self._schedule,
            Population(self._settings.population, BEST_FINALISTS, self._space.cost),
            self._memo,
            proposer=proposer,
        )

    @property
    def finished(self) -> bool:
        """Whether nothing is left to score or to retire."""
        return not self._counter.flight

    @property
    def evaluations(self) -> int:
        """Scorings of retired generations."""
        return self._counter.evaluations

    @property
    def tokens(self) -> int:
        """Tokens run through the candidates of retired generations."""
        return self._counter.tokens

    @property
    def generation(self) -> int:
        """Number of the last retired generation; -1 until the seeds are retired."""
        return self._progress.generation

    @property
    def target_share(self) -> float:
        """Size that the search works at."""
        return self._schedule.target

    @property
    def incumbent(self) -> Outcome | None:
        """Best outcome on all examples at the target, or at the last target with one."""
        return self._progress.incumbent

    def front(self) -> list[Outcome]:
        """Return all outcomes that no smaller genome beats, smallest first."""
        return self._progress.front()

    def scored(self, genome: Genome) -> Outcome | None:
        """Return the outcome of a genome on all search examples.

        None if it was not scored, or if its generation is not retired.
        """
        return self._memo.get(genome)

    def finalists(self) -> list[Finalist]:
        """Return genomes worth confirming on fresh examples.

        Returns:
            For `MaxDrop` and `Pareto`: largest to smallest. At one size: lowest loss first. The start of the search
            is among them unless it failed; it comes last if it is not one of the best.
        """
        return self._progress.finalists()

    def ask(self, limit: int | None = None) -> list[Trial]:
        """Return trials to score, the most urgent ones first.

        Args:
            limit: Largest number of trials, e.g. the number of idle scorers; None for all.

        Returns:
            Distinct trials that were not handed out before; empty while the search waits for outcomes.

        Raises:
            ConflictError: There is a generation to `retire`.
        """
        return self._counter.ask(limit)

    def tell(self, outcomes: Iterable[Outcome]) -> None:
        """Take the outcomes of some or all trials asked for, in any order.

        Afterwards `retire` may have news.

        Raises:
            ConflictError: An outcome was not asked for, or was told before.
        """
        self._counter.tell(outcomes)

    def retire(self) -> GenerationRecord | None:
        """Close the oldest generation in flight if it is scored, and breed new ones.

        Call it until it returns None, before every `ask`. `state` is then that of the record.

        Raises:
            ScoringError: Every seed failed.
        """
        if (landed := self._counter.land()) is None:
            return None
        record = self._progress.retire(*landed, evaluations=self.evaluations, tokens=self.tokens)
        self._breed()
        return record

    def _breed(self) -> None:
        """Launch every generation that may be bred from retired ones."""
        newest = 0 if self.generation < 0 else self.generation + self._settings.overlap
        while self._bred < newest and not self._over():
            number = self._bred + 1
            candidates = tuple(dict.fromkeys(self._candidates(number)))
            self._launch(number, self._schedule.target, candidates[: self._left()])

    def _left(self) -> int:
        """Return the scorings left that no generation in flight may need."""
        return self._settings.max_evaluations - self.evaluations - self._counter.reserved

    def _over(self) -> bool:
        return self._schedule.finished or self._bred >= self._settings.generations or self._left() < 1

    def _candidates(self, number: int) -> list[Genome]:
        rng = stream(self._settings.seed, number)
        breeder = Breeder(Operators(self._prices, rng), self._settings, self._seen, rng)
        if number == 0:
            return self._proposer.seeds(breeder)
        if self._progress.moved:
            return self._proposer.moved(self._progress.population.genomes, breeder)
        return self._proposer.children(self._progress.population.scored, breeder)

    def _launch(self, number: int, target_share: float, candidates: tuple[Genome, ...]) -> None:
        self._bred = number
        self._seen.update(candidates)
        self._counter.launch(Generation(number=number, target_share=target_share, candidates=candidates))

    def state(self) -> dict[str, Any]:
        """Return the state after the last retired generation, as plain JSON values."""
        return {
            "version": STATE_VERSION,
            "fingerprint": self._fingerprint,
            "prices": self._costs,
            "evaluations": self.evaluations,
            "tokens": self.tokens,
            **self._progress.state(),
            "flight": flight_json(self._counter.flight),
        }

    def _restore(self, state: Mapping[str, Any]) -> None:
        check(state, self._fingerprint, self._costs)
        done = {name: state[name] for name in ("evaluations", "tokens")}
        self._counter = Counter(self._memo, self._settings.full, **done)
        self._progress.restore(state)
        self._bred = self.generation
        for saved in state["flight"]:
            candidates = tuple(tuple(genome) for genome in saved["candidates"])
            self._launch(saved["generation"], saved["target_share"], candidates)
