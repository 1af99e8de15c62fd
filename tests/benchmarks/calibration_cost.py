"""What calibrating and factoring cost against a plain forward and backward pass over the same tokens.

    .venv/bin/python tests/benchmarks/calibration_cost.py
    .venv/bin/python tests/benchmarks/calibration_cost.py --processes 1 2 --threads 1 --rounds 3
    .venv/bin/python tests/benchmarks/calibration_cost.py --midway 1    without the second pass, midway

The plain pass is what training would do: the loss of the right answers and gradients of all weights, over the same
batches in the same dtype, with as many threads as all processes together. Everything runs in fresh processes, a plain
pass in one; all load the prepared model first, and that counts. Of several rounds, in turns, the fastest counts. On a
shared machine compare the processor seconds. Memory is the most that each process held, added up; what they share
(mapped files) counts for each.
"""

import json
import multiprocessing
import os
import shutil
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from real_model import CPU, parser, preparation_plan
from torch.nn.functional import nll_loss

from ranksieve.workers.cache.folders import FolderCache
from ranksieve.workers.factors.preparation import closed_form
from ranksieve.workers.factors.prepared import PreparationPlan, Prepared
from ranksieve.workers.forward.batches import make_batches
from ranksieve.workers.forward.likelihood import answer_logits, right_choices
from ranksieve.workers.forward.loss import log_likelihoods
from ranksieve.workers.model.loading import load_prepared, prepare_model
from ranksieve.workers.model.sources import resolve
from ranksieve.workers.types.progress import Progress

HEADER = f"{'':>34}{'wall, s':>10}{'processor, s':>14}{'memory, GiB':>13}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """Of one run; `calibration_s` is the wall time until the last batch was done."""

    wall_s: float
    processor_s: float
    memory_bytes: int
    calibration_s: float = 0.0


def main() -> None:
    arguments = _arguments()
    plan, _ = preparation_plan(
        arguments.data_dir,
        seed=arguments.seed,
        dtype=arguments.dtype,
        midway_share=arguments.midway,
    )
    plan = _first_examples(replace(plan, device="cpu", threads=arguments.threads), arguments.examples)
    folder = prepare_model(resolve(plan.model), CPU, FolderCache(plan.cache_dir)).folder
    runs: dict[str, list[Cost]] = {}
    for _ in range(arguments.rounds):
        for processes in arguments.processes:
            threads = processes * arguments.threads
            plain = _run(1, _plain, replace(plan, threads=threads), folder)
            runs.setdefault(f"plain, 1 process x {threads} threads", []).append(plain)
            ours = _calibrate(replace(plan, workers=processes), folder, processes)
            runs.setdefault(f"ours, {processes} processes x {arguments.threads} threads", []).append(ours)
    _print(runs, plan)
    if arguments.json:
        numbers = {name: [asdict(cost) for cost in costs] for name, costs in runs.items()}
        arguments.json.write_text(json.dumps(numbers, indent=1) + "\n")


def _arguments() -> Namespace:
    options = parser(__doc__)
    options.add_argument("--examples", type=int, default=1024, help="calibration examples")
    options.add_argument("--processes", nargs="+", type=int, default=[1, 2])
    options.add_argument("--threads", type=int, default=1, help="of each process")
    options.add_argument("--rounds", type=int, default=1)
    options.add_argument(
        "--midway", type=float, help="share of the model on the way to which moments are gathered"
    )
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--dtype", default="auto")
    return options.parse_args()


def _first_examples(plan: PreparationPlan, count: int) -> PreparationPlan:
    task = plan.task
    return replace(
        plan,
        gram_examples=None,  # both sides see the same tokens
        task=replace(task, splits={**task.splits, "calibration": task.splits["calibration"][:count]}),
    )


def _calibrate(plan: PreparationPlan, folder: Path, processes: int) -> Cost:
    """Into a cache that has the model and nothing else."""
    with tempfile.TemporaryDirectory(dir=plan.cache_dir.parent) as scratch:
        for entry in (folder, *plan.cache_dir.glob("head-*/")):
            shutil.copytree(entry, Path(scratch, entry.name), copy_function=os.link)
        return _run(processes, _closed_form, replace(plan, cache_dir=Path(scratch)), folder)


def _run(
    processes: int, work: Callable[[PreparationPlan, Path], float], plan: PreparationPlan, folder: Path
) -> Cost:
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        parts = [
            future.result() for future in [pool.submit(_timed, work, plan, folder) for _ in range(processes)]
        ]
    started, ended, calibrated, processor_s, memory_bytes = zip(*parts, strict=True)
    return Cost(
        wall_s=max(ended) - min(started),
        processor_s=sum(processor_s),
        memory_bytes=sum(memory_bytes),
        calibration_s=max(calibrated) - min(started),
    )


def _timed(
    work: Callable[[PreparationPlan, Path], float], plan: PreparationPlan, folder: Path
) -> tuple[float, float, float, float, int]:
    started, used = time.time(), time.process_time()
    calibrated = work(plan, folder)
    (line,) = (
        line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")
    )
    return started, time.time(), calibrated, time.process_time() - used, int(line.split()[1]) * 1024


def _plain(plan: PreparationPlan, folder: Path) -> float:
    torch.set_num_threads(plan.threads)
    model = load_prepared(folder, CPU).requires_grad_(True)
    examples = plan.task.splits["calibration"]
    max_choices = max(example.choices for example in examples)
    for batch in make_batches(examples, max_choices, plan.batch_tokens):
        logits_NV = answer_logits(model, batch)
        logp = log_likelihoods(plan.task.kind, logits_NV, examples, batch, max_choices)
        right = right_choices(examples, batch, CPU) if plan.task.kind == "choice" else batch.token_N
        nll_loss(logp, right, reduction="sum").backward()
        model.zero_grad()
    return time.time()


def _closed_form(plan: PreparationPlan, _: Path) -> float:
    calibrated = time.time()
    for item in closed_form(plan):
        if isinstance(item, Progress) and item.phase.endswith("calibration"):
            calibrated = time.time()
    assert isinstance(item, Prepared)
    return calibrated


def _print(runs: dict[str, list[Cost]], plan: PreparationPlan) -> None:
    examples = plan.task.splits["calibration"]
    tokens = sum(len(row.ids) for example in examples for row in example.rows)
    print(
        f"{len(examples)} examples, {tokens:,} tokens, batches of {plan.batch_tokens} with padding\n{HEADER}"
    )
    fastest = {}
    for name, costs in runs.items():
        wall, processor = min(c.wall_s for c in costs), min(c.processor_s for c in costs)
        fastest[name] = wall, processor
        memory = max(c.memory_bytes for c in costs) / 2**30
        print(f"{name:>34}{wall:>10.1f}{processor:>14.1f}{memory:>13.2f}")
        if name.startswith("ours"):
            print(f"{'of that until the last batch':>34}{min(c.calibration_s for c in costs):>10.1f}")
    names = list(fastest)
    for plain, ours in zip(names[::2], names[1::2], strict=True):
        ratios = [mine / theirs for mine, theirs in zip(fastest[ours], fastest[plain], strict=True)]
        print(f"{ours}: {ratios[0]:.2f} times the plain wall time, {ratios[1]:.2f} times its processor time")


if __name__ == "__main__":
    main()
