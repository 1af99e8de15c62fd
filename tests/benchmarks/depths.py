"""How many of a model's first blocks does a task need: what probes tell, and what tuned models learn.

    depths.py --tune 12 15 30                              the demo's task
    depths.py --job JOB.yaml --root DIR --tune 12 15 30    a task of your own, of choices

Probes are linear, fitted to calibration records and judged on each of them by leaving it out. Models are cut behind so
many blocks, tuned like a job's, and scored on the search and the confirm split, with the seconds of tuning.
"""

import time
from dataclasses import replace

import torch
from real_model import CPU, task_parser, trained_plan
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ranksieve.workers.cache.folders import FolderCache
from ranksieve.workers.factors.prepared import PreparationPlan
from ranksieve.workers.factors.tuning import keep_first, tune
from ranksieve.workers.model.loading import load_prepared, prepare_model
from ranksieve.workers.model.sources import load_tokenizer, resolve
from ranksieve.workers.model.switchable import SwitchableModel
from ranksieve.workers.scoring.depth import PROBED, first_enough, right_behind
from ranksieve.workers.scoring.scorer import Scorer
from ranksieve.workers.types.plan import ModelSource
from ranksieve.workers.types.scores import ScoreRequest


def main() -> None:
    options = task_parser(__doc__)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--tune", nargs="+", type=int, default=[], metavar="BLOCKS")
    options.add_argument("--passes", type=int, help="default: as many as a job takes")
    options.add_argument("--threads", type=int, default=2)
    arguments = options.parse_args()
    plan, _ = trained_plan(arguments, arguments.seed)
    if arguments.passes:
        plan = replace(plan, tuning=replace(plan.tuning, epochs=arguments.passes))
    torch.set_num_threads(arguments.threads)
    given = prepare_model(resolve(plan.model), CPU, FolderCache(plan.cache_dir))
    tokenizer = load_tokenizer(ModelSource(kind="path", location=str(given.folder)))
    model, examples = load_prepared(given.folder, CPU), plan.task.splits["calibration"]
    told = right_behind(model, examples[:PROBED], plan.batch_tokens)
    print(f"probes choose {first_enough(told, examples[:PROBED])} of {len(told)} blocks")
    print(" ".join(f"{depth}:{right:.3f}" for depth, right in enumerate(told, 1)), flush=True)
    print("| blocks | search | confirm | s |\n|---|---|---|---|")
    for blocks in arguments.tune:
        torch.manual_seed(plan.seed)
        model = load_prepared(given.folder, CPU, torch.float32)
        keep_first(model, blocks)
        narrow, started = given.dtype == "bfloat16", time.perf_counter()
        settings = plan.tuning, plan.batch_tokens, plan.seed
        for _ in tune(model, "choice", examples[: plan.tuning.examples], *settings, narrow=narrow):
            pass
        seconds = time.perf_counter() - started
        model.to(getattr(torch, given.dtype))
        right = [_right(model, tokenizer, plan, split) for split in ("search", "confirm")]
        print(f"| {blocks} | {right[0]:.4f} | {right[1]:.4f} | {seconds:.0f} |", flush=True)


def _right(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, plan: PreparationPlan, split: str
) -> float:
    scorer = Scorer(SwitchableModel(model, (), {}), tokenizer, plan.task, plan.batch_tokens)
    request = ScoreRequest(ranks=(), split=split, start=0, stop=len(plan.task.splits[split]))
    scores, _ = scorer.score_dense(request)
    return float(scores.quality.mean())


if __name__ == "__main__":
    main()
