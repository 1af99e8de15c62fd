"""Every search of the benchmark by name, behind one interface: ours, those of `baselines`, an outside check."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from random import Random
from typing import Protocol

from baselines.batches import BatchSearch, Strategy
from baselines.bisection import bisection
from baselines.evopress import evopress, evopress_stages
from baselines.paper_ga import PaperSettings, paper_ga
from baselines.projections import Projection
from baselines.random_search import random_search
from baselines.sizes import Family

from ranksieve.search.evolution.evolution import Evolution
from ranksieve.search.evolution.outcome import Outcome, Trial
from ranksieve.search.evolution.schedules import Schedule, schedule_for
from ranksieve.search.evolution.settings import SearchSettings
from ranksieve.search.space.objectives import MaxDrop, Objective
from ranksieve.search.space.prices import Energies, Prices
from ranksieve.search.space.space import SearchSpace
from ranksieve.search.start.seeds import cheapest, uniform

FOREVER = 10**9
"""For limits that the budget of tokens stands in for."""


class Search(Protocol):
    """What is asked for trials and told their outcomes."""

    def retire(self) -> object: ...

    def ask(self, limit: int | None = None) -> list[Trial]: ...

    def tell(self, outcomes: Iterable[Outcome]) -> None: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """What a search is given: the space and its predictions, what is wanted, what it may look at."""

    space: SearchSpace
    energies: Energies
    objective: Objective
    settings: SearchSettings
    paper: PaperSettings = field(default_factory=PaperSettings)

    @property
    def rng(self) -> Random:
        return Random(self.settings.seed)

    @property
    def schedule(self) -> Schedule:
        return schedule_for(self.objective, self.space, patience=self.patience)

    @property
    def patience(self) -> int:
        """That of the settings where it moves the target, else without end."""
        return self.settings.patience if isinstance(self.objective, MaxDrop) else FOREVER

    @property
    def uniform(self) -> Family:
        return partial(uniform, self.space)

    @property
    def seeds(self) -> Family:
        """The Lagrangian genomes."""
        return partial(cheapest, Prices(self.space, self.energies))


def _ranksieve(problem: Problem) -> Evolution:
    settings = replace(
        problem.settings, generations=FOREVER, max_evaluations=FOREVER, patience=problem.patience
    )
    return Evolution(problem.space, problem.energies, problem.objective, settings)


def _no_search(family: Callable[[Problem], Family]) -> Callable[[Problem], Strategy]:
    return lambda p: bisection(p.space, p.objective, family(p), full=p.settings.full)


def _random(p: Problem) -> Strategy:
    settings = p.settings
    return random_search(
        p.space, p.schedule, p.uniform, full=settings.full, offspring=settings.offspring, rng=p.rng
    )


def _evopress(family: Callable[[Problem], Family]) -> Callable[[Problem], Strategy]:
    return lambda p: evopress(
        p.space, p.schedule, family(p), stages=evopress_stages(p.settings.full), rng=p.rng
    )


def _paper(p: Problem) -> Strategy:
    return paper_ga(p.space, p.objective, full=p.settings.full, rng=p.rng, settings=p.paper)


def _cma_es(p: Problem) -> Strategy:
    from outside_search import cma_es  # the library is only needed here

    return cma_es(p.space, p.energies, p.schedule, full=p.settings.full, rng=p.rng)


STRATEGIES: dict[str, Callable[[Problem], Strategy]] = {
    "lagrangian": _no_search(lambda p: p.seeds),
    "uniform": _no_search(lambda p: p.uniform),
    "random": _random,
    "evopress": _evopress(lambda p: p.uniform),
    "evopress-seeded": _evopress(lambda p: p.seeds),
    "cma-es": _cma_es,
    "paper": _paper,
    "paper-output": _paper,
}
UNIFORM = ("uniform", "random", "evopress", "paper", "paper-output")
"""Those that know no other seeds than uniform genomes."""

NAMES = ("ranksieve", *STRATEGIES)


def projection_of(name: str) -> Projection:
    """Which factors a method works with: `paper-output` with those of the paper's objective."""
    return "output" if name.endswith("-output") else "task"


def search_of(name: str, problem: Problem) -> Search:
    """A search at its beginning."""
    if name == "ranksieve":
        return _ranksieve(problem)
    return BatchSearch(STRATEGIES[name](problem))
