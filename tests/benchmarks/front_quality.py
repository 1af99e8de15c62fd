"""What `pareto` finds at each of its sizes, beside a search for that size alone: the real search on synthetic scores.

The problems are those of `search_dispatch.py`. The gain at a size is the share of a gap that a search closes: from its
Lagrangian seed to the Lagrangian genome of one who knows the hidden weights. Searches for one size get the budget of
the front divided by the number of sizes, so both columns cost as many scorings.
"""

from argparse import ArgumentDefaultsHelpFormatter, ArgumentParser
from collections.abc import Sequence

import numpy as np
from search_dispatch import Problem

from ranksieve.search.evolution.evolution import Evolution
from ranksieve.search.evolution.outcome import Trial
from ranksieve.search.evolution.settings import SearchSettings
from ranksieve.search.space.objectives import Objective, Pareto, TargetParams
from ranksieve.search.start.seeds import lagrangian

SMALLEST, LARGEST, EXAMPLES = 0.2, 0.8, 256


def run(problem: Problem, objective: Objective, evaluations: int) -> Evolution:
    """A search that ends when its scorings are spent."""
    settings = SearchSettings(generations=10**6, max_evaluations=evaluations, patience=10**6)
    evolution = problem.evolution(objective, settings)
    while not evolution.finished:
        evolution.tell([problem.outcome(trial) for trial in evolution.ask()])
        while evolution.retire() is not None:
            pass
    return evolution


def gain(problem: Problem, evolution: Evolution, share: float) -> float:
    """The share of the gap that the best of a front closes at a size."""
    space = problem.space
    ideal = [energy * weight for energy, weight in zip(problem.energies, problem.weights_M, strict=True)]

    def loss(genome: tuple[int, ...]) -> float:
        return problem.loss(Trial(genome=genome, examples=EXAMPLES))

    seed, best = (loss(lagrangian(space, energies, share)) for energies in (problem.energies, ideal))
    held = [one.genome for one in evolution.front() if space.cost_share(one.genome) <= share + 1e-9]
    return (seed - loss(held[-1])) / (seed - best)


def measure(layers: int, problems: int, evaluations: int, sizes: Sequence[int]) -> None:
    print("| sizes | gain, all at once | gain, each alone |\n|---:|---:|---:|")
    for count in sizes:
        shares = [float(share) for share in np.linspace(SMALLEST, LARGEST, count)]
        front = Pareto(smallest=SMALLEST, largest=LARGEST, sizes=count, finalists=1, points=2.0)
        together, alone = [], []
        for seed in range(problems):
            problem = Problem(layers, seed)
            evolution = run(problem, front, evaluations)
            together.append([gain(problem, evolution, share) for share in shares])
            singles = [run(problem, TargetParams(share=share), evaluations // count) for share in shares]
            alone.append([gain(problem, one, share) for one, share in zip(singles, shares, strict=True)])
        shown = [np.mean(gains, axis=1) for gains in (together, alone)]
        cells = [f"{one.mean():.2f} ± {one.std(ddof=1) / problems**0.5:.2f}" for one in shown]
        print(f"| {count} | {' | '.join(cells)} |", flush=True)


def main() -> None:
    parser = ArgumentParser(description=__doc__, formatter_class=ArgumentDefaultsHelpFormatter)
    parser.add_argument("--layers", type=int, default=30)
    parser.add_argument("--problems", type=int, default=8)
    parser.add_argument("--evaluations", type=int, default=400)
    parser.add_argument("--sizes", type=int, nargs="+", default=[7, 13, 25])
    arguments = parser.parse_args()
    measure(arguments.layers, arguments.problems, arguments.evaluations, arguments.sizes)


if __name__ == "__main__":
    main()
