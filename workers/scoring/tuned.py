"""Phase that cuts and tunes the dense model, if that helps.

The cache entry holds the tuned model, if it is used, and the given model's scores: both depend on the same records.

Legend: E examples, C choices.
"""

import json
import shutil
from collections.abc import Generator, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
import transformers
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ranksieve.search.space.matrix import MatrixShape
from ranksieve.workers.cache.folders import FolderCache, content_key
from ranksieve.workers.factors.prepared import PreparationPlan, Tuned
from ranksieve.workers.factors.training import TRAINED_BYTES
from ranksieve.workers.factors.tuning import keep_first, tune
from ranksieve.workers.machine.devices import pick_device, require_memory
from ranksieve.workers.machine.limits import processors
from ranksieve.workers.model.loading import PreparedModel, load_prepared, prepare_model, weight_bytes
from ranksieve.workers.model.matrices import block_list, find_matrices, linear_params
from ranksieve.workers.model.sources import load_tokenizer, resolve
from ranksieve.workers.model.switchable import SwitchableModel
from ranksieve.workers.scoring.depth import needed_blocks
from ranksieve.workers.scoring.offsets import fitted_offsets, right_with
from ranksieve.workers.scoring.scorer import Scorer
from ranksieve.workers.types.plan import EncodedTask, ModelSource
from ranksieve.workers.types.progress import Progress
from ranksieve.workers.types.scores import Beliefs, Floats, ScoreRequest, Scores, join_beliefs, join_scores

FORMAT = 3
"""Version of cache entries."""

FACTS, GIVEN, MODEL = "tuned.json", "given.npz", "model"
CHUNK = 256

SCORED = ("search", "test")
"""Splits that the given model answers: one to choose by, one to report."""


def tuned(plan: PreparationPlan) -> Iterator[Progress | Tuned]:
    """Yield progress and, last, the model to work on.

    The given model stays if the tuned one is no better on the search split, with one number fitted to each choice or
    without.

    Raises:
        InputError: The model cannot be used.
        ScoringError: The given model cannot be scored, or the tuning diverges.
    """
    torch.set_num_threads(min(plan.threads, processors()))
    torch.manual_seed(plan.seed)
    device = pick_device(plan.device)
    cache = FolderCache(plan.cache_dir, plan.cache_limit_bytes)
    yield Progress(phase="model", done=0, total=1)
    given = prepare_model(resolve(plan.model), device, cache)
    yield Progress(phase="model", done=1, total=1)
    versions = [FORMAT, torch.__version__, transformers.__version__]
    splits = {name: plan.task.split_digests[name] for name in ("calibration", *SCORED)}
    selection = [plan.model.include, plan.model.exclude]
    run = [device.type, plan.seed, plan.batch_tokens]
    key = content_key(
        "tuned", given.digest, given.dtype, splits, asdict(plan.tuning), selection, run, versions
    )
    with cache.lock(key):
        if cache.find(key) is None:
            with cache.writing(key) as scratch:
                yield from _make(plan, given, device, scratch)
    yield _read(cache.path(key), key, given)


def _make(
    plan: PreparationPlan, given: PreparedModel, device: torch.device, folder: Path
) -> Iterator[Progress]:
    """Write a cache entry."""
    tokenizer = load_tokenizer(ModelSource(kind="path", location=str(given.folder)))
    require_memory(device, weight_bytes(given.folder))
    model = load_prepared(given.folder, device)
    quality: dict[str, Floats] = {}
    beliefs: dict[str, Beliefs] = {}
    total, done = sum(len(plan.task.splits[split]) for split in SCORED), 0
    for split in SCORED:
        parts = []
        for part in _answered(model, tokenizer, plan.task, split, plan.batch_tokens):
            parts.append(part)
            done += len(part[0].quality)
            yield Progress(phase="dense", done=done, total=total)
        quality[split] = join_scores([scores for scores, _ in parts]).quality
        beliefs[split] = join_beliefs([belief for _, belief in parts])
    helped = _with_offsets(plan.task, beliefs) if plan.task.kind == "choice" else quality
    matrices = find_matrices(model, plan.model.include, plan.model.exclude)
    blocks = all_blocks = len(block_list(model)[1])
    facts: dict[str, object] = {
        "block_params": linear_params(model),
        "total_params": sum(parameter.numel() for parameter in model.parameters()),
        "all_blocks": all_blocks,
    }
    if not plan.tuning.whole:
        blocks = needed_blocks(model, plan.task.splits["calibration"], plan.batch_tokens)
    del model
    score = yield from _learn(plan, given, device, folder / MODEL, tokenizer, blocks)
    used = score > max(float(one["search"].mean()) for one in (quality, helped))
    if not used:
        shutil.rmtree(folder / MODEL)
    facts |= {
        "blocks": blocks if used else all_blocks,
        "absent": [asdict(matrix) for matrix in matrices if used and matrix.layer >= blocks],
        "used": used,
    }
    np.savez(
        folder / GIVEN,
        allow_pickle=False,
        **{f"quality:{split}": quality_E for split, quality_E in quality.items()},
        **{f"helped:{split}": quality_E for split, quality_E in helped.items()},
    )
    (folder / FACTS).write_text(json.dumps(facts))


def _learn(
    plan: PreparationPlan,
    given: PreparedModel,
    device: torch.device,
    folder: Path,
    tokenizer: PreTrainedTokenizerBase,
    blocks: int,
) -> Generator[Progress, None, float]:
    """Write the first blocks, tuned; return their mean score on the search split."""
    model = load_prepared(given.folder, device, torch.float32)
    keep_first(model, blocks)
    require_memory(device, TRAINED_BYTES * sum(one.numel() for one in model.parameters()))
    examples = plan.task.splits["calibration"][: plan.tuning.examples]
    narrow = given.dtype == "bfloat16"
    for step, steps in tune(
        model, plan.task.kind, examples, plan.tuning, plan.batch_tokens, plan.seed, narrow=narrow
    ):
        yield Progress(phase="tuning", done=step, total=steps)
    model.to(getattr(torch, given.dtype)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    del model
    answered = _answered(load_prepared(folder, device), tokenizer, plan.task, "search", plan.batch_tokens)
    return float(join_scores([scores for scores, _ in answered]).quality.mean())


def _answered(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task: EncodedTask,
    split: str,
    batch_tokens: int,
) -> Iterator[tuple[Scores, Beliefs]]:
    """Yield a model's answers to a split, part by part."""
    scorer = Scorer(SwitchableModel(model, (), {}), tokenizer, task, batch_tokens)
    for start in range(0, examples := len(task.splits[split]), CHUNK):
        request = ScoreRequest(ranks=(), split=split, start=start, stop=min(start + CHUNK, examples))
        yield scorer.score_dense(request)


def _with_offsets(task: EncodedTask, beliefs: Mapping[str, Beliefs]) -> dict[str, Floats]:
    """Score each record with offsets fitted to the search split, by split."""
    logp = {split: one.logp_AK.astype(np.float64) for split, one in beliefs.items()}
    labels = {split: np.array([one.label for one in task.splits[split]]) for split in beliefs}
    offset_C = fitted_offsets(logp["search"], labels["search"])
    return {split: right_with(offset_C, logp[split], labels[split]) for split in beliefs}


def _read(folder: Path, key: str, given: PreparedModel) -> Tuned:
    facts = json.loads((folder / FACTS).read_text())
    with np.load(folder / GIVEN, allow_pickle=False) as stored:
        quality, helped = (
            {split: stored[f"{name}:{split}"] for split in SCORED} for name in ("quality", "helped")
        )
    model = PreparedModel(folder=folder / MODEL, digest=key, dtype=given.dtype) if facts["used"] else given
    return Tuned(
        model=model,
        given=given,
        blocks=facts["blocks"],
        all_blocks=facts["all_blocks"],
        absent=tuple(MatrixShape(**matrix) for matrix in facts["absent"]),
        block_params=facts["block_params"],
        total_params=facts["total_params"],
        quality=quality,
        helped=helped,
    )
