"""Factors in closed form: model on disk, Grams, decompositions, in the cache.

Generators, so that a Ray task or a test sees progress and can stop them between batches. Several workers may run one
plan at once: they share its work through the cache, see `factors.shards`, and all return the same factors. If the Grams
do not fit into memory together, groups of matrices are factored in passes of their own. Finished pieces (a shard of the
calibration batches, a few matrices) are cache entries, so that an interrupted run continues from there.
"""

import os
from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
import transformers

from ranksieve.search.start.seeds import lagrangian
from ranksieve.workers.cache.folders import FolderCache, content_key
from ranksieve.workers.factors.group import MatrixGroup, Recipe
from ranksieve.workers.factors.midway import examples_of_the_way, go_midway
from ranksieve.workers.factors.passes import passes
from ranksieve.workers.factors.prepared import (
    ENERGIES,
    FACTORS,
    PreparationPlan,
    Prepared,
    compute_dtype,
    load_factors,
    read,
    write_facts,
)
from ranksieve.workers.machine.devices import pick_device
from ranksieve.workers.machine.limits import processors
from ranksieve.workers.model.attention import suit_gradients
from ranksieve.workers.model.loading import PreparedModel, load_prepared, prepare_model
from ranksieve.workers.model.matrices import find_matrices
from ranksieve.workers.model.sources import empty_model, load_config, resolve
from ranksieve.workers.types.plan import Example, ModelSource
from ranksieve.workers.types.progress import Progress

FORMAT = 15

Towards = tuple[Path, Sequence[int]]
"""Factors and ranks of the smaller model for Grams gathered midway to it."""

GATHERING = {"calibration": "recalibration", "projection": "reprojection"}
"""Phases of making factors, and their names when they are repeated midway."""


def factors_in_closed_form(plan: PreparationPlan) -> Generator[Progress, None, Prepared]:
    """Yield progress and return the job with factors in closed form.

    They are not trained. Several workers may run the same plan.

    Raises:
        InputError: The model cannot be used.
        ScoringError: Activations or gradients are not finite.
    """
    torch.set_num_threads(min(plan.threads, processors()))
    torch.manual_seed(plan.seed)
    device = pick_device(plan.device)
    cache = FolderCache(plan.cache_dir, plan.cache_limit_bytes)
    if plan.tuned is not None:
        model = plan.tuned.model
    else:
        yield Progress(phase="model", done=0, total=1)
        model = prepare_model(resolve(plan.model), device, cache)
        yield Progress(phase="model", done=1, total=1)
    if plan.midway_share is None:
        return (yield from _made(plan, model, device, cache, key_of(plan, model)))
    examples = len(_gathered(plan))
    few = replace(plan, gram_examples=examples_of_the_way(examples))
    key = content_key("way", key_of(few, model))
    dense = yield from _made(few, model, device, cache, key, precision=torch.float32)
    space = dense.space(plan.training.rank_step)
    ranks = space.ranks(lagrangian(space, dense.energies, plan.midway_share))
    key = content_key("midway", dense.factors.name, ranks, examples)
    return (yield from _made(plan, model, device, cache, key, (dense.factors, ranks)))


def key_of(plan: PreparationPlan, model: PreparedModel) -> str:
    """Return the cache key of factors from the dense model's Grams."""
    selection = [plan.model.include, plan.model.exclude]
    versions = [FORMAT, torch.__version__, transformers.__version__]
    return content_key(
        "factors",
        model.digest,
        model.dtype,
        pick_device(plan.device).type,
        plan.task.split_digests["calibration"],
        len(_gathered(plan)),
        selection,
        plan.seed,
        plan.batch_tokens,
        versions,
    )


def _made(
    plan: PreparationPlan,
    model: PreparedModel,
    device: torch.device,
    cache: FolderCache,
    key: str,
    towards: Towards | None = None,
    precision: torch.dtype = torch.float64,
) -> Generator[Progress, None, Prepared]:
    """Return the factors of a key from the cache; build them until they are there."""
    while not _is_whole(cache, key):
        for step in _build(plan, model, device, cache, key, towards, precision):
            yield step if towards is None else replace(step, phase=GATHERING[step.phase])
    return read(model, cache.path(key), plan.tuned)


def _build(
    plan: PreparationPlan,
    prepared: PreparedModel,
    device: torch.device,
    cache: FolderCache,
    key: str,
    towards: Towards | None,
    precision: torch.dtype,
) -> Iterator[Progress]:
    """Do the work that no other worker has taken, wait for the rest, and join it."""
    config = load_config(ModelSource(kind="path", location=str(prepared.folder)))
    matrices = find_matrices(empty_model(config), plan.model.include, plan.model.exclude)
    model = suit_gradients(load_prepared(prepared.folder, device, compute_dtype(prepared), matrices))
    if towards is not None:
        factors, ranks = towards
        go_midway(model, matrices, ranks, load_factors(factors))
    recipe = _recipe(plan, prepared, precision)
    groups = [
        MatrixGroup(cache, key, model, some, recipe, plan.workers)
        for some in passes(matrices, plan.gram_bytes)
    ]
    for index, group in enumerate(groups):
        yield from _overall(_work(group), index, len(groups))
    for index, group in enumerate(groups):
        while not group.done:
            group.wait()
            yield from _overall(_work(group), index, len(groups))
    parts = [part for group in groups for part in group.parts]
    with cache.lock(key):
        if not cache.has(key) and all([_is_whole(cache, part) for part in parts]):
            with cache.writing(key) as scratch:
                for index, part in enumerate(parts):
                    for name, suffix in ((FACTORS, "safetensors"), (ENERGIES, "npz")):
                        os.link(
                            cache.path(part) / f"{name}.{suffix}", scratch / f"{name}-{index:05d}.{suffix}"
                        )
                write_facts(scratch, model, matrices)
    if cache.has(key):
        for group in groups:
            group.discard()


def _work(group: MatrixGroup) -> Iterator[Progress]:
    for done, total in group.gather():
        yield Progress(phase="calibration", done=done, total=total)
    for done, total in group.factor():
        yield Progress(phase="projection", done=done, total=total)


def _overall(steps: Iterator[Progress], index: int, groups: int) -> Iterator[Progress]:
    """Scale the progress of one group to all groups, as if all took as long."""
    for step in steps:
        yield replace(step, done=index * step.total + step.done, total=groups * step.total)


def _is_whole(cache: FolderCache, key: str) -> bool:
    with cache.lock(key):
        return cache.find(key) is not None


def _gathered(plan: PreparationPlan) -> Sequence[Example]:
    """Return the calibration examples that give the second moments."""
    return plan.task.splits["calibration"][: plan.gram_examples]


def _recipe(plan: PreparationPlan, prepared: PreparedModel, precision: torch.dtype) -> Recipe:
    return Recipe(
        kind=plan.task.kind,
        examples=_gathered(plan),
        seed=plan.seed,
        batch_tokens=plan.batch_tokens,
        precision=precision,
        dtype=getattr(torch, prepared.dtype),
    )
