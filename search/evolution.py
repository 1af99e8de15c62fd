"""The genetic search: a DEAP loop turned inside out, so that scoring happens elsewhere.

`ask` hands out trials, `tell` takes their outcomes; in between nothing runs. The only module to import deap.

A generation: parents by tournament, children by crossover and mutation or transfer, repaired to the target
size; all of them race on a few examples, the survivors on all; the best of parents and survivors live on. The
target size itself is the objective's business (`search.objectives`).
"""

from collections.abc import Iterable, Mapping, Sequence
from random import Random
from typing import Any, Self

import numpy as np
from deap import base, tools

from search.archive import Memo
from search.asktell import Counter
from search.breeding import Breeder
from search.candidates import Proposer
from search.errors import ConflictError, ScoringError
from search.finalists import drop_finalists
from search.objectives import SEED_SHARES, Objective, Ratchet, schedule_for
from search.operators.crossover import crossover
from search.operators.mutation import mutate
from search.operators.repair import repair
from search.operators.transfer import transfer
from search.outcome import Outcome, Trial
from search.prices import Energies, Prices
from search.racing import Race
from search.record import GenerationRecord
from search.settings import SearchSettings
from search.space import Genome, SearchSpace

STATE_VERSION = 2
TARGET_FINALISTS = 3
DROP_FINALISTS = 3
"""Accepted ones; as many smaller ones may follow."""


class LossFitness(base.Fitness):  # type: ignore[misc]  # deap is untyped
    """`Outcome.fitness`, in nats, minimised."""

    weights = (-1.0,)


class Individual(tuple[int, ...]):
    """A genome with its fitness, as DEAP's containers expect it."""

    fitness: LossFitness

    @classmethod
    def of(cls, genome: Genome, loss_nats: float) -> Self:
        """A scored genome."""
        individual = cls(genome)
        individual.fitness = LossFitness((loss_nats,))
        return individual

    @property
    def loss_nats(self) -> float:
        """Its fitness as a number."""
        return float(self.fitness.values[0])

    @property
    def genome(self) -> Genome:
        """The genome alone."""
        return tuple(self)


def _toolbox(prices: Prices, rng: Random) -> Any:
    toolbox = base.Toolbox()
    toolbox.register("mate", crossover, prices.space, rng=rng)
    toolbox.register("mutate", mutate, prices.space, rng=rng)
    toolbox.register("transfer", transfer, prices.space, rng=rng)
    toolbox.register("repair", repair, prices, rng=rng)
    toolbox.register("select", tools.selBest)
    return toolbox


def _statistics() -> Any:
    statistics = tools.Statistics(lambda individual: individual.loss_nats)
    statistics.register("loss_min", np.min)
    statistics.register("loss_avg", np.mean)
    statistics.register("loss_max", np.max)
    statistics.register("loss_std", np.std)
    return statistics


class Evolution:
    """A search that is asked for trials and told their outcomes.

    Args:
        space: All genomes.
        energies: Per matrix, squared singular values in units of the task loss, descending.
        objective: What the user wants.
        settings: How to search.
        seeds: Genomes of the user's to start from too.
        memo: Outcomes known already, which are not asked for again.
        state: Where an earlier search stood; see `resume`.

    Raises:
        InputError: Energies that do not fit the space.
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
        self._space, self._energies, self._settings = space, energies, settings
        self._rng, self._memo = Random(settings.seed), Memo(space, memo)
        self._toolbox = _toolbox(Prices(space, energies), self._rng)
        self._schedule = schedule_for(objective, space, patience=settings.patience)
        breeder = Breeder(self._toolbox, settings, self._memo, self._rng)
        self._proposer = Proposer(space, energies, self._schedule, breeder, settings, seeds)
        self._statistics, self._logbook = _statistics(), tools.Logbook()
        self._hall = tools.HallOfFame(TARGET_FINALISTS)
        self._population: list[Individual] = []
        self._incumbent: Outcome | None = None
        self._moved = False  # the target is new: nobody has been scored at it
        self._next_generation = 0
        self._counter = Counter(self._memo)
        self._told: list[Outcome] = []
        if state is not None:
            self._restore(state)
        self._begin()

    @classmethod
    def resume(
        cls,
        space: SearchSpace,
        energies: Energies,
        objective: Objective,
        settings: SearchSettings,
        state: Mapping[str, Any],
        memo: Iterable[Outcome],
    ) -> Self:
        """Go on from a saved state, bit for bit as if nothing had happened.

        Args:
            space: As at the start.
            energies: As at the start.
            objective: As at the start.
            settings: As at the start; limits may be raised.
            state: What `state` returned, also after a round trip through JSON.
            memo: Every outcome told before that state was taken.

        Raises:
            ConflictError: The state is of another version of this program, or the memo is incomplete.
            InputError: The state is of another space.
        """
        return cls(space, energies, objective, settings, memo=memo, state=state)

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to score."""
        return self._counter.empty

    @property
    def evaluations(self) -> int:
        """Scorings so far, of either stage."""
        return self._counter.evaluations

    @property
    def tokens(self) -> int:
        """Tokens run through candidates so far."""
        return self._counter.tokens

    @property
    def generation(self) -> int:
        """Number of the last finished generation; -1 before the seeds are scored."""
        return self._next_generation - 1

    @property
    def target_share(self) -> float:
        """The size the search works at."""
        return self._schedule.target

    @property
    def incumbent(self) -> Outcome | None:
        """The best outcome on all examples at the target, or at the last target that had one."""
        return self._incumbent

    def front(self) -> list[Outcome]:
        """Everything scored on all examples that no smaller genome beats, smallest first."""
        return self._memo.front(self._settings.full)

    def scored(self, genome: Genome) -> Outcome | None:
        """What a genome scored on all search examples, if it was."""
        return self._memo.get(genome, self._settings.full)

    def finalists(self, limit: int = DROP_FINALISTS) -> list[Genome]:
        """Genomes worth confirming on fresh examples.

        Args:
            limit: How many, at least one; `MaxDrop` gives as many smaller ones, `TargetParams` three at most.

        Returns:
            For `MaxDrop`: largest to smallest. For `TargetParams`: lowest loss first.
        """
        if isinstance(self._schedule, Ratchet):
            accepted = self._schedule.accepted
            return drop_finalists(self._space, self._energies, accepted, self.front(), limit)
        return [individual.genome for individual in self._hall][:limit]

    def ask(self) -> list[Trial]:
        """The next trials, all of them to be scored before the search goes on.

        Returns:
            Distinct trials, none of them scored before; empty only when `finished`.

        Raises:
            ConflictError: The trials asked for last have not been told.
        """
        return self._counter.ask()

    def tell(self, outcomes: Sequence[Outcome]) -> GenerationRecord | None:
        """Take the outcomes of the trials asked for last.

        Args:
            outcomes: One per trial, in the order of `ask`.

        Returns:
            The record of the generation this finished, or None if it has a further stage.

        Raises:
            ConflictError: Nothing was asked for, or these are not the outcomes of the trials asked for.
            ScoringError: Every seed failed.
        """
        self._counter.tell(outcomes)
        self._told.extend(outcomes)
        if self._counter.offer(self._race.next_trials()):
            return None
        record = self._finish()
        self._begin()
        return record

    def _begin(self) -> None:
        """Start the next generation with something to score; those that the memo answers pass at once."""
        self._state = self._snapshot()
        while not self._over():
            self._told, self._race = [], self._new_race()
            if self._counter.offer(self._race.next_trials()):
                return
            self._finish()
            self._state = self._snapshot()

    def _over(self) -> bool:
        return (
            self._schedule.finished
            or self._next_generation > self._settings.generations
            or self.evaluations >= self._settings.max_evaluations
        )

    def _new_race(self) -> Race:
        first = self._next_generation == 0
        candidates = self._candidates()
        return Race(
            candidates,
            settings=self._settings,
            memo=self._memo,
            limit=self._settings.max_evaluations - self.evaluations,
            protected=candidates[0] if first else None,
            screened=not (first and isinstance(self._schedule, Ratchet)),
        )

    def _candidates(self) -> list[Genome]:
        if self._next_generation == 0:
            return self._proposer.seeds()
        if self._moved:
            return self._proposer.moved([individual.genome for individual in self._population])
        return self._proposer.children([(parent.genome, parent.loss_nats) for parent in self._population])

    def _finish(self) -> GenerationRecord:
        """Close the generation: new population, new incumbent, perhaps a new target."""
        finishers, target = self._race.finishers, self._schedule.target
        if self._next_generation == 0 and isinstance(self._schedule, Ratchet):
            incumbent = self._start(self._schedule, finishers)
            accepted, self._moved = bool(self._schedule.accepted), True
            target = self._schedule.accepted[-1].share if accepted else target
        else:
            incumbent, accepted = self._select(finishers)
            self._moved = self._schedule.target != target or (self._moved and not finishers)
        self._incumbent = incumbent
        record = self._record(incumbent, target, accepted)
        self._next_generation += 1
        return record

    def _start(self, ratchet: Ratchet, finishers: Sequence[Outcome]) -> Outcome:
        """Let the seeds along the size axis tell where to begin; the nearest ones are the first parents."""
        if not finishers:
            raise self._seeds_failed()
        by_genome = {outcome.genome: outcome for outcome in finishers}
        seeds = dict.fromkeys(map(self._proposer.lagrangian, SEED_SHARES))
        ratchet.start([(self._space.kept_share(genome), by_genome.get(genome)) for genome in seeds])
        finishers = sorted(finishers, key=lambda o: abs(self._space.kept_share(o.genome) - ratchet.target))
        self._population = [_individual(outcome) for outcome in finishers[: self._settings.population]]
        if ratchet.accepted:
            return by_genome[ratchet.accepted[-1].genome]
        return max(finishers, key=lambda outcome: self._space.params(outcome.genome))

    def _select(self, finishers: Sequence[Outcome]) -> tuple[Outcome, bool]:
        """Let the best of parents and survivors live, and ask the schedule what it makes of the best."""
        previous = self._incumbent
        if finishers:
            survivors = [_individual(outcome) for outcome in finishers]
            if self._moved:
                self._hall.clear()
            parents = [] if self._moved else [p for p in self._population if p not in survivors]
            self._population = self._toolbox.select(parents + survivors, self._settings.population)
            self._hall.update(survivors)
        if not self._population or (incumbent := self._best(finishers)) is None:
            raise self._seeds_failed()
        here = bool(finishers) or not self._moved
        improved = previous is None or self._moved or incumbent.fitness < previous.fitness
        share = self._space.kept_share(incumbent.genome)
        return incumbent, self._schedule.observe(incumbent if here else None, share, improved=improved)

    def _best(self, finishers: Sequence[Outcome]) -> Outcome | None:
        """The outcome of the best of the population, or the old one where the new target has none yet."""
        if self._moved and not finishers:
            return self._incumbent
        return self._memo.get(self._population[0].genome, self._settings.full)

    def _seeds_failed(self) -> ScoringError:
        reasons = sorted({outcome.failure for outcome in self._told if outcome.failure is not None})
        return ScoringError(f"every seed failed: {'; '.join(reasons) or 'in an earlier run'}")

    def _record(self, incumbent: Outcome, target: float, accepted: bool) -> GenerationRecord:
        row = {name: float(value) for name, value in self._statistics.compile(self._population).items()}
        self._logbook.record(generation=self._next_generation, evaluations=len(self._told), **row)
        return GenerationRecord.of(
            incumbent,
            generation=self._next_generation,
            target_share=target,
            kept_share=self._space.kept_share(incumbent.genome),
            evaluations=self.evaluations,
            tokens=self.tokens,
            accepted=accepted,
            outcomes=tuple(self._told),
            **row,
        )

    def state(self) -> dict[str, Any]:
        """The search after its last finished generation, as plain JSON values for `resume`."""
        return self._state

    def _snapshot(self) -> dict[str, Any]:
        version, internal, gauss = self._rng.getstate()
        return {
            "version": STATE_VERSION,
            "generation": self.generation,
            "evaluations": self.evaluations,
            "tokens": self.tokens,
            "moved": self._moved,
            "rng": [version, list(internal), gauss],
            "population": [_scored_json(individual) for individual in self._population],
            "hall_of_fame": [_scored_json(individual) for individual in self._hall],
            "logbook": [dict(row) for row in self._logbook],
            "schedule": self._schedule.state(),
            "incumbent": None if self._incumbent is None else self._incumbent.to_json(),
        }

    def _restore(self, state: Mapping[str, Any]) -> None:
        if state["version"] != STATE_VERSION:
            raise ConflictError(
                f"saved search has version {state['version']}, expected {STATE_VERSION}; submit the job again"
            )
        version, internal, gauss = state["rng"]
        self._rng.setstate((version, tuple(internal), gauss))
        self._next_generation, self._moved = state["generation"] + 1, state["moved"]
        self._counter = Counter(self._memo, evaluations=state["evaluations"], tokens=state["tokens"])
        self._population = [self._recalled(genome, loss_nats) for genome, loss_nats in state["population"]]
        # the hall puts newcomers before their equals, so it is filled from the back
        for genome, loss_nats in reversed(state["hall_of_fame"]):
            self._hall.insert(self._recalled(genome, loss_nats))
        for row in state["logbook"]:
            self._logbook.record(**row)
        self._schedule.restore(state["schedule"])
        self._incumbent = None if state["incumbent"] is None else Outcome.from_json(state["incumbent"])

    def _recalled(self, genome: Sequence[int], loss_nats: float) -> Individual:
        valid = self._space.validate(genome)
        if self._memo.get(valid, self._settings.full) is None:
            raise ConflictError("the memo lacks outcomes of the saved population; pass all that were told")
        return Individual.of(valid, loss_nats)


def _individual(outcome: Outcome) -> Individual:
    return Individual.of(outcome.genome, outcome.fitness)


def _scored_json(individual: Individual) -> list[Any]:
    return [list(individual), individual.loss_nats]
