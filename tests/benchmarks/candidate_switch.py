"""How long a warm scorer takes to become another candidate: genome in, ready to score.

Also looks for cost and state hidden behind the switch: it times the first batch after a switch against the same
batch again, and checks that scores follow the switch and that going back gives the old ones to the last bit.
"""

import json
import time
from argparse import Namespace
from collections.abc import Callable
from functools import partial
from random import Random
from statistics import median

import numpy as np
from real_model import RealModel, load, parser

from ranksieve.search.space.matrix import DENSE
from ranksieve.search.space.space import Genome
from ranksieve.workers.types.scores import ScoreRequest, Scores


def main() -> None:
    arguments = _arguments()
    model = load(arguments.data_dir, threads=arguments.threads)
    rng = Random(arguments.seed)
    genomes = [_random_genome(model, rng) for _ in range(arguments.switches)]
    ranks = [model.space.ranks(genome) for genome in genomes]

    lookup_ms = [_milliseconds(partial(model.space.ranks, genome)) for genome in genomes]
    switch_ms = [_milliseconds(partial(model.switchable.switch, wanted)) for wanted in ranks]
    whole_ms = [_milliseconds(partial(_become, model, genome)) for genome in genomes]
    first_ms, again_ms = _first_and_second(model, ranks[: arguments.batches], arguments.examples)
    _check_scores_follow(model, ranks[0], ranks[1], arguments.examples)

    print(f"{len(model.space)} matrices, {model.dtype}, {arguments.switches} random genomes, CPU, ms")
    print(f"{'':34}{'median':>10}{'99 %':>10}{'worst':>10}")
    rows = {
        "genome to ranks": lookup_ms,
        "switch the model": switch_ms,
        "both: genome in, ready to score": whole_ms,
        "first batch after a switch": first_ms,
        "the same batch again": again_ms,
    }
    numbers = {name: _summary(values) for name, values in rows.items()}
    for name, row in numbers.items():
        print(f"{name:34}{row['median']:>10.3f}{row['p99']:>10.3f}{row['worst']:>10.3f}")
    print("scores follow the switch, and come back to the last bit: yes")
    if arguments.json:
        arguments.json.write_text(json.dumps({"matrices": len(model.space), "ms": numbers}, indent=2) + "\n")


def _arguments() -> Namespace:
    options = parser(__doc__)
    options.add_argument("--switches", type=int, default=1000)
    options.add_argument("--batches", type=int, default=10, help="switches that are followed by a batch")
    options.add_argument("--examples", type=int, default=16, help="examples in that batch")
    options.add_argument("--threads", type=int, default=2)
    options.add_argument("--seed", type=int, default=0)
    return options.parse_args()


def _random_genome(model: RealModel, rng: Random) -> Genome:
    return tuple(rng.randrange(len(gene.levels)) for gene in model.space.genes)


def _become(model: RealModel, genome: Genome) -> None:
    model.switchable.switch(model.space.ranks(genome))


def _milliseconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return (time.perf_counter() - started) * 1000


def _score(model: RealModel, ranks: tuple[int, ...], examples: int) -> Scores:
    scores = model.scorer.score(ScoreRequest(ranks=ranks, split="search", start=0, stop=examples))
    if not isinstance(scores, Scores):
        raise SystemExit(f"the candidate could not be scored: {scores.reason}")
    return scores


def _first_and_second(
    model: RealModel, candidates: list[tuple[int, ...]], examples: int
) -> tuple[list[float], list[float]]:
    first_ms, again_ms = [], []
    _score(model, candidates[-1], examples)  # the batches are made once per job, not once per candidate
    for ranks in candidates:
        first_ms.append(_milliseconds(partial(_score, model, ranks, examples)))
        again_ms.append(_milliseconds(partial(_score, model, ranks, examples)))
    return first_ms, again_ms


def _check_scores_follow(
    model: RealModel, one: tuple[int, ...], other: tuple[int, ...], examples: int
) -> None:
    dense = (DENSE,) * len(model.space)
    order = [dense, one, other, one, dense]
    nll = [_score(model, ranks, examples).nll_nats for ranks in order]
    if np.array_equal(nll[0], nll[1]) or np.array_equal(nll[1], nll[2]):
        raise SystemExit("two different candidates have the same scores: the switch did nothing")
    if not (np.array_equal(nll[1], nll[3]) and np.array_equal(nll[0], nll[4])):
        raise SystemExit("a candidate scores differently the second time: the switch leaves something behind")


def _summary(values: list[float]) -> dict[str, float]:
    return {"median": median(values), "p99": float(np.quantile(values, 0.99)), "worst": max(values)}


if __name__ == "__main__":
    main()
