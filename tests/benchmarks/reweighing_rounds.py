"""What more rounds of reweighing give: Lagrangian genomes of the demo's model after so many of them, nothing searched.

A round is one of a job's (`service.reweighing`), from closed-form `task` factors. After each of `--after` rounds the
genome that a search would start from is scored on the confirm split, which nothing else looks at: its loss, and by how
much it is below that of the unweighted one, paired over examples. Prints each row as it is measured.
"""

import json
import time
from argparse import Namespace
from collections.abc import Iterator
from typing import Any

from in_process import InProcess
from real_model import load, parser, weights_after
from search_table import gain

from search.prices import Energies
from search.reweighing import settled, weighted
from search.seeds import lagrangian
from service.scoring import Candidate, TaskScorer
from workers.scores import Floats, Scores

Row = dict[str, Any]


def main() -> None:
    arguments = _arguments()
    print("| seed | rounds | s | loss, nats | below the unweighted one (95 %) |\n|---|---|---|---|---|")
    rows: list[Row] = []
    for seed in arguments.seeds:
        for row in _measure(arguments, seed):
            rows.append(row)
            mean, low, high = row["gain"]
            print("| {seed} | {rounds} | {seconds:.0f} | {loss:.4f} |".format_map(row), end=" ")
            print(f"{mean:+.4f} ({low:+.4f} to {high:+.4f}) |", flush=True)
            if arguments.json:
                arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


def _arguments() -> Namespace:
    options = parser(__doc__)
    options.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    options.add_argument("--share", type=float, default=0.3)
    options.add_argument("--after", nargs="+", type=int, default=[4, 8, 12, 16], help="rounds, ascending")
    options.add_argument("--kl-weight", type=float, default=0.5)
    options.add_argument("--threads", type=int, default=2)
    return options.parse_args()


def _measure(arguments: Namespace, seed: int) -> Iterator[Row]:
    model = load(arguments.data_dir, seed=seed, threads=arguments.threads)
    scorer = TaskScorer(InProcess(model.scorer), model.space, model.task, arguments.kl_weight)
    scorer.score_dense("confirm")

    def losses(energies: Energies) -> Floats:
        genome = lagrangian(model.space, energies, arguments.share)
        (scores,) = scorer.score_candidates([Candidate(genome=genome)], "confirm")
        if not isinstance(scores, Scores):
            raise SystemExit(f"cannot be scored: {scores.reason}")
        return scorer.losses(scores, "confirm")

    energies = model.prepared.energies
    plain = losses(energies)
    started = time.perf_counter()
    weights = weights_after(model, scorer, arguments.share, arguments.after[-1])
    seconds = (time.perf_counter() - started) / len(weights)
    for count in (0, *arguments.after):
        after = losses(weighted(energies, settled(weights[:count]))) if count else plain
        spent = {"seed": seed, "rounds": count, "seconds": count * seconds}
        yield spent | {"loss": float(after.mean()), "gain": gain(plain, after)}


if __name__ == "__main__":
    main()
