"""Progress of a search: population, target size and best model."""

from collections.abc import Mapping, Sequence
from typing import Any

from ranksieve.search.errors import ConflictError, ScoringError
from ranksieve.search.evolution.archive import Memo
from ranksieve.search.evolution.asktell import Generation
from ranksieve.search.evolution.finalists import Finalist, drop_finalists
from ranksieve.search.evolution.outcome import Outcome
from ranksieve.search.evolution.population import Population
from ranksieve.search.evolution.proposals import Proposer
from ranksieve.search.evolution.record import GenerationRecord
from ranksieve.search.evolution.schedules import Ratchet, Schedule, seed_shares
from ranksieve.search.space.space import SearchSpace

BEST_FINALISTS = 3
"""Best genomes that are finalists of a search at one size, besides its start."""


class SearchProgress:
    """State of a search after its retired generations.

    Args:
        space: Search space that prices genomes.
        schedule: Schedule that sets the target.
        population: Empty population.
        memo: All outcomes of retired generations.
        proposer: Source of seeds, which also brings genomes to a size.
    """

    def __init__(
        self,
        space: SearchSpace,
        schedule: Schedule,
        population: Population,
        memo: Memo,
        *,
        proposer: Proposer,
    ) -> None:
        self._space, self._memo, self._proposer = space, memo, proposer
        self.schedule, self.population = schedule, population
        self.incumbent: Outcome | None = None
        """Best outcome on all examples at the target, or at the last target with one."""
        self.generation = -1
        """Number of the last retired generation."""

    @property
    def moved(self) -> bool:
        """Whether the target is new, without any scored genome."""
        return self.population.target_share != self.schedule.target

    def front(self) -> list[Outcome]:
        """Return all outcomes that no smaller genome beats, smallest first."""
        return self._memo.front()

    def finalists(self) -> list[Finalist]:
        """Return genomes worth confirming; see `Evolution.finalists`."""
        if isinstance(self.schedule, Ratchet):
            return drop_finalists(self._space, self._proposer.seed, self.schedule.accepted, self.front())
        # The best of many on few examples is flattered by chance. The start is not, and may be better.
        last = self._memo.scored([self._proposer.origin])
        genomes = dict.fromkeys([*self.population.hall_of_fame, *(outcome.genome for outcome in last)])
        return [Finalist(genome=genome) for genome in genomes]

    def retire(
        self, generation: Generation, fresh: Sequence[Outcome], *, evaluations: int, tokens: int
    ) -> GenerationRecord:
        """Take in the next generation.

        This updates the population and the incumbent, and may move the target.

        Args:
            generation: Generation whose candidates are all scored.
            fresh: Outcomes that no earlier generation had.
            evaluations: Scorings so far.
            tokens: Tokens so far.

        Raises:
            ScoringError: Every seed failed.
        """
        finishers = sorted(self._memo.scored(generation.candidates), key=lambda one: one.fitness)
        target = generation.target_share
        if not (finishers or self.population):
            reasons = sorted({outcome.failure for outcome in fresh if outcome.failure is not None})
            raise ScoringError(f"every seed failed: {'; '.join(reasons) or 'in an earlier run'}")
        if generation.number == 0 and isinstance(self.schedule, Ratchet):
            incumbent = self._start(self.schedule, finishers)
            accepted = bool(self.schedule.accepted)
            target = self.schedule.accepted[-1].share if accepted else target
        else:
            incumbent, accepted = self._select(finishers, target)
        self.incumbent, self.generation = incumbent, generation.number
        at_target = accepted or target == self.population.target_share
        return GenerationRecord.of(
            incumbent,
            generation=generation.number,
            target_share=target,
            kept_share=self._space.kept_share(incumbent.genome),
            loss_nats=incumbent.fitness if at_target else None,
            evaluations=evaluations,
            tokens=tokens,
            accepted=accepted,
            outcomes=tuple(fresh),
            **self.population.summary(),
        )

    def _start(self, ratchet: Ratchet, finishers: Sequence[Outcome]) -> Outcome:
        """Choose where to begin from the seeds' outcomes.

        The seeds nearest to the start are the first parents. Genomes given by the user count like those of a
        generation: a smaller one that holds becomes the start.
        """
        by_genome = {outcome.genome: outcome for outcome in finishers}
        seeds = list(dict.fromkeys(map(self._proposer.seed, seed_shares(self._space))))
        seeds.sort(key=self._space.kept_share, reverse=True)  # what fills a budget may differ
        ratchet.start([(self._space.kept_share(genome), by_genome.get(genome)) for genome in seeds])
        for genome in sorted(self._proposer.given, key=self._space.params, reverse=True):
            if (outcome := by_genome.get(genome)) is not None:
                ratchet.take(outcome, self._space.kept_share(genome))
        nearest = sorted(finishers, key=lambda o: abs(self._space.kept_share(o.genome) - ratchet.target))
        self.population.found(nearest)
        if ratchet.accepted:
            return by_genome[ratchet.accepted[-1].genome]
        return max(nearest, key=lambda outcome: self._space.params(outcome.genome))

    def _select(self, finishers: Sequence[Outcome], target: float) -> tuple[Outcome, bool]:
        """Keep the best of parents and children, and pass the best to the schedule."""
        previous, moved = self.incumbent, target != self.population.target_share
        if finishers:
            self.population.join(finishers, target)
        here = bool(finishers) or not moved
        incumbent = self._memo.get(self.population.hall_of_fame[0]) if here else previous
        assert incumbent is not None  # all members of a population are scored
        accepted = self.schedule.observe(
            incumbent if here else None,
            self._space.kept_share(incumbent.genome),
            target=target,
            improved=previous is None or moved or incumbent.fitness < previous.fitness,
        )
        return incumbent, accepted

    def state(self) -> dict[str, Any]:
        """Return the state as plain JSON values for `restore`."""
        return {
            "generation": self.generation,
            "population": self.population.state(),
            "schedule": self.schedule.state(),
            "incumbent": None if self.incumbent is None else self.incumbent.to_json(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore the state that `state` returned.

        Raises:
            ConflictError: The memo lacks outcomes of the population.
        """
        self.generation = state["generation"]
        self.population.restore(state["population"])
        self.schedule.restore(state["schedule"])
        self.incumbent = None if state["incumbent"] is None else Outcome.from_json(state["incumbent"])
        if any(self._memo.get(genome) is None for genome in self.population.genomes):
            raise ConflictError(
                "the memo lacks outcomes of the saved population; pass all outcomes that were told"
            )
