"""What each projection method keeps of a model at each size, without any search: the table of the README.

For every seed (of the data splits and of calibration) and method the model is calibrated and factored; for every
allocation and size it is scored on the first test examples; with `--split confirm`, to choose by, on those. With
`--json FILE` every row is kept in FILE as soon as it is there, and what FILE holds is not run again.

    projection_table.py                            the demo's task, all methods, three seeds
    projection_table.py --job JOB.yaml --root DIR  a task of your own
    projection_table.py --methods task --allocations lagrangian

`--midway`: the share of the model on the way to which the second moments of `task` are gathered, 1 for the dense ones.
`--allocations`: `lagrangian` ranks per matrix, `per-type` one density per matrix type in all layers, `uniform` one
density for all (`search.seeds`).
`predicted` is the KL that the factors' energies predict: half the sum of what is cut off, per example.
"""

import json
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from statistics import mean
from typing import Any

import numpy as np
from baselines.per_type import per_type
from real_model import RealModel, load, task_parser

from ranksieve.search.space.matrix import DENSE
from ranksieve.search.space.prices import Prices
from ranksieve.search.space.space import Genome
from ranksieve.search.start.seeds import lagrangian, uniform
from ranksieve.service.policy import MIDWAY_SHARE
from ranksieve.workers.types.scores import ScoreRequest, Scores, metric_of

Row = dict[str, Any]
VARIANT = ("midway", "gram_examples", "calibration", "split")
KEY = ("method", *VARIANT, "allocation", "share", "seed")
ALLOCATIONS = ("lagrangian", "per-type", "uniform")


def main() -> None:
    arguments = _arguments()
    rows = json.loads(arguments.json.read_text()) if arguments.json and arguments.json.exists() else []
    for seed in arguments.seeds:
        for method in arguments.methods:
            wanted = [
                (method, *_variant(arguments, method), allocation, share, seed)
                for share in arguments.shares
                for allocation in arguments.allocations
            ]
            known = {tuple(row.get(name) for name in KEY) for row in rows}
            missing = [key for key in wanted if key not in known]
            if not missing:
                continue
            for row in _measure(arguments, method, seed, missing):
                rows.append(row)
                if arguments.json:
                    arguments.json.write_text(json.dumps(rows, indent=1) + "\n")
    _print(arguments, rows)


def _arguments() -> Namespace:
    options = task_parser(__doc__)
    options.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    options.add_argument("--methods", nargs="+", default=["task", "output", "weight"])
    options.add_argument(
        "--midway", type=float, default=MIDWAY_SHARE, help="share of the smaller model, 0..1"
    )
    options.add_argument("--gram-examples", type=int, help="calibration records for second moments")
    options.add_argument("--allocations", nargs="+", choices=ALLOCATIONS, default=["lagrangian", "uniform"])
    options.add_argument("--shares", nargs="+", type=float, default=[0.6, 0.5, 0.4, 0.3, 0.2, 0.1])
    options.add_argument("--split", choices=["test", "confirm"], default="test", help="to score on")
    options.add_argument("--examples", type=int, default=1000, help="of it")
    options.add_argument("--threads", type=int, default=2)
    return options.parse_args()


def _measure(arguments: Namespace, method: str, seed: int, keys: list[tuple[Any, ...]]) -> Iterator[Row]:
    started = time.monotonic()
    model = load(
        arguments.data_dir,
        spec=arguments.job,
        roots=arguments.root,
        method=method,
        calibration=arguments.calibration,
        gram_examples=arguments.gram_examples,
        midway_share=arguments.midway,
        seed=seed,
        threads=arguments.threads,
    )
    prepare_s = time.monotonic() - started
    examples = min(arguments.examples, len(model.task.splits[arguments.split]))
    dense, beliefs = model.scorer.score_dense(_request(model, None, arguments.split, examples))
    model.scorer.set_beliefs({arguments.split: beliefs})
    for key in keys:
        asked = dict(zip(KEY, key, strict=True))
        genome = _genome(asked["allocation"], model, asked["share"])
        scores = model.scorer.score(_request(model, genome, arguments.split, examples))
        if not isinstance(scores, Scores):
            raise SystemExit(f"{asked} cannot be scored: {scores.reason}")
        yield {
            **asked,
            "kept": model.space.kept_share(genome),
            "dense": metric_of(model.task.kind, dense),
            "metric": metric_of(model.task.kind, scores),
            "kl_nats": float(scores.kl_nats.mean()),
            "nll_rise_nats": float((scores.nll_nats - dense.nll_nats).sum() / dense.answer_tokens.sum()),
            "predicted_kl_nats": _predicted(model, genome) if method == "task" else None,
            "examples": examples,
            "prepare_s": prepare_s,
        }


def _variant(arguments: Namespace, method: str) -> tuple[Any, ...]:
    """`VARIANT` as rows name it: None where it is as it was before there was a choice."""
    return (
        arguments.midway if method == "task" and arguments.midway < 1 else None,
        arguments.gram_examples,
        arguments.calibration,
        None if arguments.split == "test" else arguments.split,
    )


def _request(model: RealModel, genome: Genome | None, split: str, examples: int) -> ScoreRequest:
    ranks = (DENSE,) * len(model.space) if genome is None else model.space.ranks(genome)
    return ScoreRequest(ranks=ranks, split=split, start=0, stop=examples)


def _genome(allocation: str, model: RealModel, share: float) -> Genome:
    space, energies = model.space, model.prepared.energies
    if allocation == "uniform":
        return uniform(space, share)
    return (per_type if allocation == "per-type" else lagrangian)(space, energies, share)


def _predicted(model: RealModel, genome: Genome) -> float:
    """Energies are per token of the calibration split; the KL is per example (for `choice`)."""
    examples = model.task.splits["calibration"]
    tokens = sum(len(row.ids) for example in examples for row in example.rows)
    return Prices(model.space, model.prepared.energies).loss(genome) / 2 * tokens / len(examples)


def _print(arguments: Namespace, rows: list[Row]) -> None:
    """A table for every measure, means over the seeds with their standard deviation, and how well KL is predicted."""
    groups: dict[tuple[str, str, float], list[Row]] = {}
    for row in rows:
        shown = tuple(row.get(name) for name in VARIANT)
        if row["seed"] in arguments.seeds and shown == _variant(arguments, row["method"]):
            groups.setdefault((row["method"], row["allocation"], row["share"]), []).append(row)
    for title, measure, form in MEASURES:
        print(f"\n{title}\n\n| method | allocation | " + " | ".join(map(str, arguments.shares)) + " |")
        print("|---|---" + "|---:" * len(arguments.shares) + "|")
        for method, allocation in product(arguments.methods, arguments.allocations):
            found = [groups.get((method, allocation, share), []) for share in arguments.shares]
            if any(found):
                cells = [_cell([measure(row) for row in group], form) for group in found]
                print(f"| `{method}` | {allocation} | " + " | ".join(cells) + " |")
    for allocation in arguments.allocations:
        found = [row for (_, by, _), group in groups.items() if by == allocation for row in group]
        pairs = [(row["predicted_kl_nats"], row["kl_nats"]) for row in found if row["predicted_kl_nats"]]
        if len(pairs) > 2:
            predicted, measured = np.log(np.array(pairs)).T
            print(f"\npredicted and measured KL of {len(pairs)} {allocation} models: correlation of logarithms "
                  f"{np.corrcoef(predicted, measured)[0, 1]:.3f}")  # fmt: skip


def _cell(values: Sequence[float], form: str) -> str:
    if not values:
        return ""
    spread = f" ± {np.std(values, ddof=1):{form.removeprefix('+')}}" if len(values) > 1 else ""
    return f"{mean(values):{form}}{spread}"


MEASURES: tuple[tuple[str, Callable[[Row], float], str], ...] = (
    ("change of the metric, points", lambda row: 100 * (row["metric"] - row["dense"]), "+.1f"),
    ("KL from the dense model, nats", lambda row: row["kl_nats"], ".3f"),
    ("rise of the right answers' negative log-likelihood, nats", lambda row: row["nll_rise_nats"], "+.3f"),
)


if __name__ == "__main__":
    main()
