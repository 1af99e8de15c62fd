"""Whether a latency table foretells what whole models take, and what a search gains by it over a parameter proxy.

    .venv/bin/python tests/benchmarks/latency_check.py --shares .9 .8 .7 .6 .5

The demo's model on the processor, on one thread. At each share of the dense model's forward pass: the Lagrangian
genome with prices in time, and the one with prices in parameters that the table expects to be as fast. Every genome
is timed as an export runs it, all in turn with the dense model, and shares are of one run. What the parameter-priced
genomes lose at the very time that a latency-priced one was measured to take is read off between two of them.
"""

import json
from argparse import Namespace
from collections.abc import Mapping, Sequence
from random import Random
from statistics import mean
from typing import Any

import numpy as np
import torch
from real_model import CPU, RealModel, load, parser

from ranksieve.search.space.latency import LatencyTable
from ranksieve.search.space.matrix import DENSE
from ranksieve.search.space.prices import Prices
from ranksieve.search.space.space import SearchSpace
from ranksieve.search.start.seeds import lagrangian
from ranksieve.workers.cost.latency import Latency, LatencyPlan
from ranksieve.workers.cost.latency_measurement import measure_latency, pass_with, stand_in
from ranksieve.workers.cost.timing import fastest, last_of, timer_for
from ranksieve.workers.cost.workload import Workload, forward_pass, typical_batch
from ranksieve.workers.model.loading import load_prepared
from ranksieve.workers.model.sublayers import find_sublayers, live_ranks
from ranksieve.workers.types.scores import ScoreRequest, Scores

Ranks = tuple[int, ...]
IN_TIME, IN_PARAMS = "time", "parameters"
BISECTIONS = 12


def main() -> None:
    arguments = _arguments()
    model = load(arguments.data_dir, threads=1)
    workload = _workload(model, arguments)
    latency = _measured(model, workload)
    print(_heading(latency))
    rows = _rows(model, latency.table, arguments.shares)
    shares = _measured_shares(model, workload, [row["ranks"] for row in rows], arguments.rounds)
    model.scorer.set_beliefs({"search": _dense_beliefs(model, arguments.examples)})
    for row, share in zip(rows, shares, strict=True):
        row |= {"measured": share, "kl_nats": _kl_nats(model, row.pop("ranks"), arguments.examples)}
        print(
            f"{row['prices']:>12}{row['wanted']:>8.2f}{row['expected']:>10.3f}{row['measured']:>10.3f}{row['kept']:>8.3f}"
            f"{row['predicted_loss']:>11.4f}{row['kl_nats']:>9.4f}"
        )
    summary = _summary(rows)
    print(json.dumps(summary, indent=2))
    if arguments.json:
        record = {"workload": str(workload), "latency": latency.to_json(), "rows": rows, "summary": summary}
        arguments.json.write_text(json.dumps(record, indent=2) + "\n")


def _arguments() -> Namespace:
    options = parser(__doc__)
    options.add_argument("--shares", type=float, nargs="+", default=[0.9, 0.8, 0.7, 0.6, 0.5, 0.4])
    options.add_argument("--workload", choices=["prefill", "decode"], default="prefill")
    options.add_argument("--rows", type=int, help="by default those of a typical batch")
    options.add_argument("--rounds", type=int, default=9)
    options.add_argument("--examples", type=int, default=128)
    return options.parse_args()


def _workload(model: RealModel, arguments: Namespace) -> Workload:
    rows, length = typical_batch(model.task, "search", 768)
    return Workload(kind=arguments.workload, rows=arguments.rows or rows, length=length)


def _measured(model: RealModel, workload: Workload) -> Latency:
    plan = LatencyPlan(
        model_folder=model.prepared.model.folder,
        matrices=model.space.matrices,
        rank_step=model.space.rank_step,
        workload=workload,
        threads=1,
        device="cpu",
    )
    *_, latency = measure_latency(plan)
    assert isinstance(latency, Latency)
    return latency


def _heading(latency: Latency) -> str:
    table, workload = latency.table, latency.workload
    checked = latency.checked_nanoseconds / table.dense_nanoseconds
    expected = latency.expected_nanoseconds / table.dense_nanoseconds
    columns = (
        f"{'prices':>12}{'wanted':>8}{'expected':>10}{'measured':>10}{'kept':>8}{'predicted':>11}{'KL':>9}"
    )
    return (
        f"{workload.kind} of {workload.rows} x {workload.length}, {latency.dtype}: dense "
        f"{table.dense_nanoseconds / 1e6:.1f} ms, {table.other_nanoseconds / 1e6:.1f} ms besides matrices, stretched "
        f"{latency.stretched:.3f} and {latency.stretched_ranks:.3f}, half of every matrix {expected:.3f} of dense "
        f"expected and {checked:.3f} measured\n" + columns
    )


def _rows(model: RealModel, table: LatencyTable, shares: Sequence[float]) -> list[dict[str, Any]]:
    """A genome with either price for every share."""
    in_params = model.space
    in_time = SearchSpace(in_params.matrices, in_params.rank_step, price=table.price)
    energies, rows = model.prepared.energies, []
    for share in shares:
        room = (share * table.dense_nanoseconds - table.other_nanoseconds) / in_time.total_cost
        if not in_time.reaches(room):
            print(f"{share:g} is out of reach")
            continue
        found = {
            IN_TIME: (in_time, lagrangian(in_time, energies, room)),
            IN_PARAMS: (in_params, _as_fast(model, table, share * table.dense_nanoseconds)),
        }
        for prices, (space, genome) in found.items():
            ranks = space.ranks(genome)
            rows.append(
                {
                    "prices": prices,
                    "wanted": share,
                    "expected": table.nanoseconds(space.matrices, ranks) / table.dense_nanoseconds,
                    "kept": space.kept_share(genome),
                    "predicted_loss": Prices(space, energies).loss(genome),
                    "ranks": ranks,
                }
            )
    return rows


def _as_fast(model: RealModel, table: LatencyTable, nanoseconds: float) -> tuple[int, ...]:
    """The largest Lagrangian genome with prices in parameters that the table expects to be fast enough."""
    space, low, high = model.space, 0.0, 1.0
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        genome = lagrangian(space, model.prepared.energies, middle)
        fast = table.nanoseconds(space.matrices, space.ranks(genome)) <= nanoseconds
        low, high = (middle, high) if fast else (low, middle)
    return lagrangian(space, model.prepared.energies, low)


def _measured_shares(
    model: RealModel, workload: Workload, genomes: Sequence[Ranks], rounds: int
) -> list[float]:
    """What the whole model takes at each of these ranks, of what it takes dense."""
    matrices = model.space.matrices
    exported = load_prepared(model.prepared.model.folder, CPU)
    sublayers, run = find_sublayers(exported, matrices), forward_pass(exported, workload)
    dense = {matrix.name: exported.get_submodule(matrix.name) for matrix in matrices}
    calls = {}
    for index, ranks in enumerate([(DENSE,) * len(matrices), *genomes]):
        live = live_ranks(matrices, ranks, sublayers)
        layers = [stand_in(module, rank) for module, rank in zip(dense.values(), live, strict=True)]
        calls[index] = pass_with(exported, dict(zip(dense, layers, strict=True)), run)
    torch.set_num_threads(1)
    spent = last_of(fastest(calls, timer_for(CPU, 1), rounds, Random(0)))
    return [spent[index + 1] / spent[0] for index in range(len(genomes))]


def _dense_beliefs(model: RealModel, examples: int) -> Any:
    ranks = (DENSE,) * len(model.space.matrices)
    _, beliefs = model.scorer.score_dense(ScoreRequest(ranks=ranks, split="search", start=0, stop=examples))
    return beliefs


def _kl_nats(model: RealModel, ranks: Ranks, examples: int) -> float:
    scores = model.scorer.score(ScoreRequest(ranks=ranks, split="search", start=0, stop=examples))
    assert isinstance(scores, Scores)
    return float(scores.kl_nats.mean())


def _summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    expected, measured = ([row[name] for row in rows] for name in ("expected", "measured"))
    kept = [row["kept"] for row in rows]
    record = {
        "correlation": float(np.corrcoef(expected, measured)[0, 1]),
        "mean_absolute_error": mean(abs(e - m) for e, m in zip(expected, measured, strict=True)),
        "mean_error": mean(e - m for e, m in zip(expected, measured, strict=True)),
        "correlation_of_kept_parameters": float(np.corrcoef(kept, measured)[0, 1]),
    }
    for name in ("predicted_loss", "kl_nats"):
        record[f"{name}_at_equal_measured_latency"] = _ratios(rows, name)
    return record


def _ratios(rows: Sequence[Mapping[str, Any]], name: str) -> dict[str, float]:
    """What prices in time lose over what prices in parameters lose, by the share wanted, where both were measured."""
    others = sorted(
        (row["measured"], np.log(max(row[name], 1e-9))) for row in rows if row["prices"] == IN_PARAMS
    )
    times, losses = zip(*others, strict=True)
    return {
        f"{row['wanted']:g}": float(max(row[name], 1e-9) / np.exp(np.interp(row["measured"], times, losses)))
        for row in rows
        if row["prices"] == IN_TIME and times[0] <= row["measured"] <= times[-1]
    }


if __name__ == "__main__":
    main()
