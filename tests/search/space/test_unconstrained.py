"""Without constraints the search is what it was before there were any: same seeds, same genomes, pinned by digest.

A digest changes only with a deliberate change of an operator, a seed or the loop; then it is written anew.
"""

import hashlib
import json
from collections.abc import Callable
from random import Random
from typing import Any

import pytest
from baselines.per_type import per_type

from ranksieve.search.evolution.evolution import Evolution
from ranksieve.search.evolution.operators.crossover import crossover
from ranksieve.search.evolution.operators.mutation import mutate
from ranksieve.search.evolution.operators.transfer import transfer
from ranksieve.search.evolution.settings import SearchSettings
from ranksieve.search.space.objectives import MaxDrop, Objective, TargetParams
from ranksieve.search.space.prices import Prices
from ranksieve.search.space.repair import repair
from ranksieve.search.space.space import Genome, SearchSpace
from ranksieve.search.start.seeds import lagrangian, uniform

SETTINGS = SearchSettings(
    population=6, offspring=10, survivors=3, screen=8, full=32, generations=15, patience=50
)


def digest(values: Any) -> str:
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:16]


def seeds_of(space: SearchSpace, energies: list[Any]) -> list[Genome]:
    shares = [0.05 * k for k in range(21)]
    typed = [per_type(space, energies, share) for share in shares]
    return [*(lagrangian(space, energies, s) for s in shares), *typed, *(uniform(space, s) for s in shares)]


def children_of(space: SearchSpace, energies: list[Any], parents: list[Genome]) -> list[Genome]:
    """A walk of all operators from one rng, so that its stream is pinned too."""
    rng, prices, genomes = Random(7), Prices(space, energies), list(parents)
    for step in range(300):
        first, second = rng.choice(genomes), rng.choice(genomes)
        child = crossover(space, first, second, rng)
        child = mutate(space, child, rng) if step % 2 else transfer(space, child, rng)
        fixed = [i for i, level in enumerate(child) if level != first[i]][: step % 3]
        genomes.append(repair(prices, child, space.budget(rng.random()), rng, fixed=fixed))
    return genomes[len(parents) :]


def test_seeds_and_operators(make_problem: Callable[..., Any]) -> None:
    problem = make_problem(layers=6)
    made = seeds_of(problem.space, problem.energies)
    assert digest(made) == "9bd05207eff9ec66"
    assert digest(children_of(problem.space, problem.energies, made)) == "2011b8a139bd370e"


@pytest.mark.parametrize(
    ("objective", "trials"),
    [(MaxDrop(points=2.0), "9b4b9b87f90441a7"), (TargetParams(share=0.35), "3afd1ba5cd1ccd3c")],
)
def test_a_whole_search(make_problem: Callable[..., Any], objective: Objective, trials: str) -> None:
    problem = make_problem(layers=6)
    evolution = Evolution(problem.space, problem.energies, objective, SETTINGS)
    while not evolution.finished:
        evolution.tell(problem.score(evolution.ask()))
        while evolution.retire() is not None:
            pass
    asked = [{"genome": list(trial.genome), "examples": trial.examples} for trial in problem.calls]
    assert digest(asked) == trials
