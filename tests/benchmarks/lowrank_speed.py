"""How fast the scorer runs a low-rank candidate against the dense model, in tokens per second on the CPU.

The same batches for both, in alternating rounds, so that a busy machine slows both alike. The candidate is the
Lagrangian one at the given share: what a search starts from, with its own mix of ranks and dense matrices.
"""

import json
from argparse import Namespace
from statistics import median
from typing import Any

import torch
from real_model import RealModel, load, parser

from ranksieve.search.space.matrix import DENSE
from ranksieve.search.start.seeds import lagrangian
from ranksieve.workers.types.scores import ScoreRequest, Scores


def main() -> None:
    arguments = _arguments()
    rows = []
    print(
        f"kept {arguments.share:g}, {arguments.examples} examples, {arguments.rounds} rounds; tokens/s, medians"
    )
    print(f"{'dtype':>10}{'threads':>9}{'dense':>10}{'low rank':>10}{'ratio':>8}{'lowest':>8}{'highest':>8}")
    for dtype in arguments.dtypes:
        model = load(arguments.data_dir, dtype=dtype, threads=max(arguments.threads))
        for threads in arguments.threads:
            torch.set_num_threads(threads)
            row = _measure(model, arguments.share, arguments.examples, arguments.rounds)
            rows.append({"dtype": model.dtype, "threads": threads, "share": arguments.share, **row})
            print(
                f"{model.dtype:>10}{threads:>9}{row['dense']:>10,.0f}{row['low_rank']:>10,.0f}"
                f"{row['ratio']:>8.2f}{row['ratio_lowest']:>8.2f}{row['ratio_highest']:>8.2f}"
            )
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")


def _arguments() -> Namespace:
    options = parser(__doc__)
    options.add_argument("--share", type=float, default=0.3, help="share of the block parameters kept")
    options.add_argument("--dtypes", nargs="+", default=["auto", "float32"])
    options.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--examples", type=int, default=64)
    return options.parse_args()


def _measure(model: RealModel, share: float, examples: int, rounds: int) -> dict[str, Any]:
    genome = lagrangian(model.space, model.prepared.energies, share)
    low_rank, dense = model.space.ranks(genome), (DENSE,) * len(model.space)
    for ranks in (dense, low_rank):
        _tokens_per_second(model, ranks, examples)  # warm-up
    speeds = [
        (_tokens_per_second(model, dense, examples), _tokens_per_second(model, low_rank, examples))
        for _ in range(rounds)
    ]
    ratios = [fast / slow for slow, fast in speeds]
    return {
        "kept": model.space.kept_share(genome),
        "dense": median(slow for slow, _ in speeds),
        "low_rank": median(fast for _, fast in speeds),
        "ratio": median(ratios),
        "ratio_lowest": min(ratios),
        "ratio_highest": max(ratios),
    }


def _tokens_per_second(model: RealModel, ranks: tuple[int, ...], examples: int) -> float:
    scores = model.scorer.score(ScoreRequest(ranks=ranks, split="search", start=0, stop=examples))
    if not isinstance(scores, Scores):
        raise SystemExit(f"the candidate could not be scored: {scores.reason}")
    return scores.tokens / scores.seconds


if __name__ == "__main__":
    main()
