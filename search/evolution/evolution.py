"""The genetic search: a loop turned inside out, so that scoring happens elsewhere.

`ask` hands out trials, `tell` takes their outcomes in any order, `retire` closes generations one after another.

A generation: parents by tournament, children by crossover and mutation, transfer or removal, repaired to the target
size; all of them race on a few examples, the survivors on all; the best of parents and survivors live on. The
target size itself is a schedule's business (`search.evolution.schedules`).

Generations overlap: number g is bred when number g - overlap is retired, from what is known then, so that its trials
fill the time in which others wait for the last outcomes of their races. Which generation knows of which is fixed; so a
run is a function of its seed, whatever the number of scorers and their speed.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ranksieve.search.evolution.archive import Memo
from ranksieve.search.evolution.asktell import Counter, Generation
from ranksieve.search.evolution.breeding import Breeder, stream
from ranksieve.search.evolution.finalists import Finalist
from ranksieve.search.evolution.frontier import FrontStanding
from ranksieve.search.evolution.outcome import Outcome, Trial
from ranksieve.search.evolution.population import FrontPopulation, Population, operators
from ranksieve.search.evolution.progress import BEST_FINALISTS, Standing
from ranksieve.search.evolution.proposals import FrontProposer, Proposer
from ranksieve.search.evolution.racing import Race
from ranksieve.search.evolution.record import GenerationRecord
from ranksieve.search.evolution.schedules import schedule_for
from ranksieve.search.evolution.settings import SearchSettings
from ranksieve.search.evolution.snapshot import STATE_VERSION, check, fingerprint, flight_json, prices
from ranksieve.search.space.objectives import Objective, Pareto
from ranksieve.search.space.prices import Energies, Prices
from ranksieve.search.space.sizes import Sizes
from ranksieve.search.space.space import Genome, SearchSpace
from ranksieve.search.start.seeds import Starts


class Evolution:
    """A search that is asked for trials and told their outcomes.

    One that goes on from a state does so bit for bit as if nothing had happened: all else is as it was at the start.

    Args:
        space: All genomes.
        energies: Per matrix, squared singular values in units of the task loss, descending.
        objective: What the user wants.
        settings: How to search.
        seeds: Genomes of the user's to start from too.
        starts: Genomes to set out from, where they are not the Lagrangian ones; seeds of other sizes are made of the
            nearest.
        memo: Outcomes known already, which are not asked for again; with a state those of every record up to it.
        state: What `state` of an earlier one returned, also after a round trip through JSON.

    Raises:
        InputError: Energies that do not fit the space.
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
        starts: Starts | None = None,
        memo: Iterable[Outcome] = (),
        state: Mapping[str, Any] | None = None,
    ) -> None:
        known = list(memo)
        self._space, self._settings = space, settings
        self._fingerprint, self._costs = fingerprint(space, objective, settings), prices(space)
        self._prices, self._memo = Prices(space, energies), Memo(space, known)
        self._schedule = schedule_for(objective, space, patience=settings.patience)
        self._proposer, self._standing = self._parts(objective, seeds, starts or {})
        self._counter = Counter(self._memo)
        self._seen = {outcome.genome for outcome in known}  # scored, or about to be
        self._bred = -1  # number of the last generation launched
        if state is not None:
            self._restore(state)
        self._breed()

    def _parts(
        self, objective: Objective, seeds: Sequence[Genome], starts: Starts
    ) -> tuple[Proposer, Standing]:
        """Who proposes candidates, and who takes in what they scored."""
        proposer = Proposer(
            prices=self._prices,
            schedule=self._schedule,
            settings=self._settings,
            given=seeds,
            starts=starts,
        )
        if isinstance(objective, Pareto):
            sizes = Sizes(self._space, objective)
            members = max(self._settings.population, objective.sizes)
            of_sizes = FrontProposer(**vars(proposer), sizes=sizes)
            return of_sizes, FrontStanding(
                self._space,
                self._schedule,
                FrontPopulation(members, sizes.place),
                self._memo,
                objective=objective,
                settings=self._settings,
                proposer=of_sizes,
            )
        return proposer, Standing(
            self._space,
            self._schedule,
            Population(self._settings.population, BEST_FINALISTS, self._space.cost),
            self._memo,
            full=self._settings.full,
            proposer=proposer,
        )

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to score or to retire."""
        return not self._counter.flight

    @property
    def evaluations(self) -> int:
        """Scorings of retired generations, of any stage."""
        return self._counter.evaluations

    @property
    def tokens(self) -> int:
        """Tokens run through the candidates of retired generations."""
        return self._counter.tokens

    @property
    def generation(self) -> int:
        """Number of the last retired generation; -1 before the seeds are."""
        return self._standing.generation

    @property
    def target_share(self) -> float:
        """The size the search works at."""
        return self._schedule.target

    @property
    def incumbent(self) -> Outcome | None:
        """The best outcome on all examples at the target, or at the last target that had one."""
        return self._standing.incumbent

    def front(self) -> list[Outcome]:
        """Every retired outcome on all examples that no smaller genome beats, smallest first."""
        return self._standing.front()

    def scored(self, genome: Genome) -> Outcome | None:
        """What a genome scored on all search examples, if it was and its generation is retired."""
        return self._memo.get(genome, self._settings.full)

    def finalists(self) -> list[Finalist]:
        """Genomes worth confirming on fresh examples.

        Returns:
            For `MaxDrop` and `Pareto`: largest to smallest. At one size: lowest loss first; what the search set out
            from is among them unless it failed, last where it is not one of the best.
        """
        return self._standing.finalists()

    def ask(self, limit: int | None = None) -> list[Trial]:
        """Trials to score, the most urgent ones first.

        Args:
            limit: How many at most, e.g. the number of idle scorers; None for all there are.

        Returns:
            Distinct trials, none of them handed out before; empty while the search waits for outcomes.

        Raises:
            ConflictError: There is a generation to `retire`.
        """
        return self._counter.ask(limit)

    def tell(self, outcomes: Iterable[Outcome]) -> None:
        """Take the outcomes of trials asked for, some or all, in any order; see whether `retire` has news then.

        Raises:
            ConflictError: One is not of a trial asked for, or was told before.
        """
        self._counter.tell(outcomes)

    def retire(self) -> GenerationRecord | None:
        """Close the oldest generation in flight, if all of it is scored, and breed what may be bred now.

        To be called until it returns None, before every `ask`. `state` is then that of the record.

        Raises:
            ScoringError: Every seed failed.
        """
        if (landed := self._counter.land()) is None:
            return None
        record = self._standing.retire(*landed, evaluations=self.evaluations, tokens=self.tokens)
        self._breed()
        return record

    def _breed(self) -> None:
        """Launch every generation that may be bred from what is retired."""
        newest = 0 if self.generation < 0 else self.generation + self._settings.overlap
        while self._bred < newest and not self._over():
            number = self._bred + 1
            self._launch(number, self._schedule.target, self._candidates(number), limit=self._left())

    def _left(self) -> int:
        """Scorings to spend that no generation in flight may need."""
        return self._settings.max_evaluations - self.evaluations - self._counter.reserved

    def _over(self) -> bool:
        return self._schedule.finished or self._bred >= self._settings.generations or self._left() < 1

    def _candidates(self, number: int) -> list[Genome]:
        rng = stream(self._settings.seed, number)
        made = operators(self._prices, rng)
        breeder = Breeder(made, self._settings, self._seen, rng)
        if number == 0:
            return self._proposer.seeds(breeder)
        if self._standing.moved:
            moved = self._proposer.moved(self._standing.population.genomes, breeder)
            # in two races at once, of other stages, it would cost what the one costs that comes first
            racing = {genome for older in self._counter.flight for genome in older.race.candidates}
            return [genome for genome in moved if genome not in racing]
        return self._proposer.children(self._standing.population.scored, breeder)

    def _launch(
        self,
        number: int,
        target_share: float,
        candidates: Sequence[Genome],
        *,
        limit: int | None = None,
        screened: bool = True,
    ) -> None:
        first = number == 0
        race = Race(
            candidates,
            settings=self._settings,
            known=self._counter.known,
            limit=limit,
            protected=candidates[0] if first else None,
            screened=screened and (self._standing.screens_seeds or not first),
            order=self._standing.order(number),
        )
        self._bred = number
        self._seen.update(race.candidates)
        self._counter.launch(Generation(number=number, target_share=target_share, race=race))

    def state(self) -> dict[str, Any]:
        """The search after its last retired generation, as plain JSON values."""
        return {
            "version": STATE_VERSION,
            "fingerprint": self._fingerprint,
            "prices": self._costs,
            "evaluations": self.evaluations,
            "tokens": self.tokens,
            **self._standing.state(),
            "flight": flight_json(self._counter.flight),
        }

    def _restore(self, state: Mapping[str, Any]) -> None:
        check(state, self._fingerprint, self._costs)
        self._counter = Counter(self._memo, evaluations=state["evaluations"], tokens=state["tokens"])
        self._standing.restore(state)
        self._bred = self.generation
        for saved in state["flight"]:
            candidates = [tuple(genome) for genome in saved["candidates"]]
            self._launch(saved["generation"], saved["target_share"], candidates, screened=saved["screened"])
