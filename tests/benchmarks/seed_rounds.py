"""What reweighing and descent make of the genome that a search sets out from, on the real model, nothing searched.

Rounds are those of a job (`rounds.reweighing`, `rounds.descent`), from closed-form `task` factors. After each of
`--after` rounds of reweighing the Lagrangian genome, and those that up to `--descents` rounds lead to from there, are
scored on the confirm split, which nothing else looks at: the loss, and by how much it is below that of the unweighted
genome and of the last one of its size, paired over examples. So are, at the sizes `--at`, the Lagrangian genome by the
same weights, and the last one that was descended, brought there by what the energies predict, and then by the slopes of
the last round, as far as those lead, as a job does it. With `--midway` factors are then made of second moments midway
to the descended genome, which is scored with those, and so is what as many rounds of descent lead to from there. Prints
each row as it is measured.
"""

import json
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from in_process import InProcess
from real_model import (
    RealModel,
    descents,
    gathered_again,
    load,
    task_parser,
    weighings,
)
from search_table import gain

from ranksieve.api.cli.spec_file import load_spec
from ranksieve.search.space.prices import Prices
from ranksieve.search.space.space import Genome
from ranksieve.search.start.reweighing import settled, weighted
from ranksieve.search.start.seeds import family, fitted, lagrangian
from ranksieve.service.pipeline.rounds.descent import starts_of, until_little
from ranksieve.service.pipeline.scoring import Candidate, TaskScorer
from ranksieve.service.policy import DESCENT_ROUNDS
from ranksieve.workers.types.scores import Floats, Scores

Row = dict[str, Any]


def main() -> None:
    arguments = _arguments()
    print(
        "| seed | kept | rounds | descents | factors | s | loss, nats | below the unweighted one "
        "| below the last of its size |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    rows: list[Row] = []
    for seed in arguments.seeds:
        for row in _measure(arguments, seed):
            rows.append(row)
            numbers = (
                "| {seed} | {share:g} | {rounds} | {descents} | {factors} | {seconds:.0f} | {loss:.4f} |"
            )
            print(numbers.format_map(row), end=" ")
            gains = ["{:+.4f} ({:+.4f} to {:+.4f})".format(*row[name]) for name in ("gain", "step")]
            print(" | ".join(gains), "|", flush=True)
            if arguments.json:
                arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


def _arguments() -> Namespace:
    options = task_parser(__doc__)
    options.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    options.add_argument("--share", type=float, default=0.3, help="size that is measured")
    options.add_argument("--at", nargs="*", type=float, default=[], help="other sizes to score seeds at")
    options.add_argument("--after", nargs="+", type=int, default=[8, 16], help="rounds, ascending")
    options.add_argument("--descents", type=int, default=DESCENT_ROUNDS)
    options.add_argument(
        "--midway",
        action="store_true",
        help="gather moments midway to the descended genome, make factors of them, and descend on",
    )
    options.add_argument("--kl-weight", type=float, default=0.5)
    options.add_argument("--threads", type=int, default=2)
    return options.parse_args()


def _measure(arguments: Namespace, seed: int) -> Iterator[Row]:
    model = load(
        arguments.data_dir,
        spec=None if arguments.job is None else load_spec(arguments.job),
        roots=arguments.root,
        calibration=arguments.calibration,
        propagated_shares=arguments.propagated,
        seed=seed,
        threads=arguments.threads,
    )
    scorer, losses = _scoring(model, arguments.kl_weight)
    space, plain = model.space, model.prepared.energies
    started = time.perf_counter()
    rounds = weighings(model, scorer, lambda _: arguments.share, arguments.after[-1])
    weights = [np.array(one.weights) for one in rounds]
    per_round = (time.perf_counter() - started) / len(weights)
    elsewhere = [share for share in arguments.at if share != arguments.share]
    first = {share: losses(lagrangian(space, plain, share)) for share in (arguments.share, *elsewhere)}

    factors = "first"

    def row(share: float, rounds: int, descents: int, seconds: float, after: Floats) -> Row:
        spent = {"seed": seed, "share": share, "rounds": rounds, "descents": descents, "seconds": seconds}
        spent["factors"] = factors
        gained = {"gain": gain(first[share], after), "step": gain(last[share], after)}
        last[share] = after
        return spent | {"loss": float(after.mean())} | gained

    last = dict(first)
    for share, loss in first.items():
        yield row(share, 0, 0, 0.0, loss)
    for rounds in arguments.after:
        last, seconds = dict(first), rounds * per_round
        energies = weighted(plain, settled(weights[:rounds])) if rounds else plain
        genome = lagrangian(space, energies, arguments.share)
        yield row(arguments.share, rounds, 0, seconds, losses(genome))
        for share in elsewhere:
            yield row(share, rounds, 0, seconds, losses(lagrangian(space, energies, share)))
        made = descents(model, scorer, energies, until_little(arguments.share), arguments.descents)
        descended, started = [], time.perf_counter()
        for one in made:
            seconds += time.perf_counter() - started
            descended.append(one)
            yield row(arguments.share, rounds, len(descended), seconds, losses(one.genome))
            started = time.perf_counter()
        prices = Prices(space, energies)
        genome_of = family(prices, starts_of(descended))
        for share in elsewhere if descended else ():
            for brought in (fitted(prices, descended[-1].genome, share), genome_of(share)):
                yield row(share, rounds, len(descended), seconds, losses(brought))
    if not arguments.midway or not descended:
        return
    genome, done, factors, started = descended[-1].genome, len(descended), "midway", time.perf_counter()
    model = gathered_again(model, genome)
    seconds += time.perf_counter() - started
    scorer, losses = _scoring(model, arguments.kl_weight)
    yield row(
        arguments.share, 0, 0, seconds, losses(lagrangian(space, model.prepared.energies, arguments.share))
    )
    yield row(arguments.share, rounds, done, seconds, losses(genome))
    little, started = until_little(arguments.share), time.perf_counter()
    further = descents(
        model,
        scorer,
        energies,
        lambda of, every: little(of, every[done:]),
        arguments.descents,
        earlier=descended,
    )
    for number, made in enumerate(further, 1):
        seconds += time.perf_counter() - started
        yield row(arguments.share, rounds, done + number, seconds, losses(made.genome))
        started = time.perf_counter()


def _scoring(model: RealModel, kl_weight: float) -> tuple[TaskScorer, Callable[[Genome], Floats]]:
    """A scorer, and what a genome loses on the confirm split."""
    scorer = TaskScorer(InProcess(model.scorer), model.space, model.task, kl_weight)
    scorer.score_dense("confirm")

    def losses(genome: Genome) -> Floats:
        (scores,) = scorer.score_candidates([Candidate(genome=genome)], "confirm")
        if not isinstance(scores, Scores):
            raise SystemExit(f"cannot be scored: {scores.reason}")
        return scorer.losses(scores, "confirm")

    return scorer, losses


if __name__ == "__main__":
    main()
