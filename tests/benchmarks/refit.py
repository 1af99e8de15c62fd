"""What a refit gives: Lagrangian genomes of the demo's model before and after their left factors are fitted anew.

For every size and share of the dense flow in the target, one pass over the calibration examples and two scorings of the
confirm split, without and with the bias for the answers that comes out of it. Prints the table as it is measured, with
the seconds of every pass.
"""

import json
import time
from argparse import Namespace
from collections.abc import Iterator
from typing import Any

import torch
from real_model import RealModel, load, parser

from ranksieve.search.space.matrix import DENSE
from ranksieve.search.start.seeds import lagrangian
from ranksieve.workers.factors.refit import refit, using_fitted
from ranksieve.workers.model.matrices import linear_head
from ranksieve.workers.types.scores import ScoreRequest, Scores, metric_of

Row = dict[str, Any]
BATCH_TOKENS = 1024


def main() -> None:
    arguments = _arguments()
    model = load(arguments.data_dir, seed=arguments.seed, threads=arguments.threads)
    dense, beliefs = model.scorer.score_dense(_request((DENSE,) * len(model.space), arguments.examples))
    model.scorer.set_beliefs({"confirm": beliefs})
    print(f"{arguments.examples} confirm examples, dense accuracy {metric_of('choice', dense):.4f}")
    print("| kept | alpha | bias | KL, nats | NLL rise, nats | accuracy drop, points | refit, s |")
    print("|---|---|---|---|---|---|---|")
    rows: list[Row] = []
    for share in arguments.shares:
        ranks = model.space.ranks(lagrangian(model.space, model.prepared.energies, share))
        for alpha in (None, *arguments.alphas):
            for row in _measured(model, dense, ranks, alpha, arguments):
                rows.append({"share": share, "alpha": alpha, **row})
                print("| {share} | {alpha} | {bias} | {kl_nats:.4f} | {nll_rise_nats:+.4f} | {drop_points:+.2f} | "
                      "{refit_s:.0f} |".format_map(rows[-1]), flush=True)  # fmt: skip
            if arguments.json:
                arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


def _arguments() -> Namespace:
    options = parser(__doc__)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--shares", nargs="+", type=float, default=[0.4, 0.25, 0.1])
    options.add_argument("--alphas", nargs="+", type=float, default=[0.0, 0.5, 1.0])
    options.add_argument("--calibration", type=int, default=512, help="calibration examples to fit to")
    options.add_argument("--examples", type=int, default=512, help="confirm examples to score on")
    options.add_argument("--threads", type=int, default=2)
    return options.parse_args()


def _measured(
    model: RealModel, dense: Scores, ranks: tuple[int, ...], alpha: float | None, arguments: Namespace
) -> Iterator[Row]:
    started = time.perf_counter()
    new: dict[str, torch.Tensor] = {}
    if alpha is not None:
        examples = model.task.splits["calibration"][: arguments.calibration]
        for block in refit(model.switchable, ranks, examples, BATCH_TOKENS, alpha):
            new |= block.fitted
    refit_s = time.perf_counter() - started
    found = linear_head(model.switchable.model)
    assert found is not None
    bias_key = f"{found[0]}:bias"
    without = {key: tensor for key, tensor in new.items() if key != bias_key}
    for fitted in (without, new) if bias_key in new else (new,):
        with using_fitted(model.switchable, fitted):
            scores = model.scorer.score(_request(ranks, arguments.examples))
        if not isinstance(scores, Scores):
            raise SystemExit(f"cannot be scored: {scores.reason}")
        yield {
            "bias": bias_key in fitted,
            "kl_nats": float(scores.kl_nats.mean()),
            "nll_rise_nats": float((scores.nll_nats - dense.nll_nats).mean()),
            "drop_points": 100 * (metric_of("choice", dense) - metric_of("choice", scores)),
            "refit_s": refit_s,
        }


def _request(ranks: tuple[int, ...], examples: int) -> ScoreRequest:
    return ScoreRequest(ranks=ranks, split="confirm", start=0, stop=examples)


if __name__ == "__main__":
    main()
