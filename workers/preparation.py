"""Everything before the search: model on disk, Grams, factors of every matrix, trained or not, in the cache.

A generator, so that whoever runs it (a Ray task, a test) sees progress and can stop it between batches. Where the Grams
do not fit into memory together, groups of matrices are factored in passes of their own; each group is a cache entry, so
that a run that was cut off goes on with the next one.
"""

import json
import logging
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import safetensors
import torch
import transformers
from numpy.typing import NDArray
from safetensors.torch import save_file
from transformers import PreTrainedModel

from search.space import MatrixShape, SearchSpace, Storage
from workers.cache import FolderCache, content_key
from workers.calibration import Calibrator, Grams, passes
from workers.devices import pick_device, require_memory
from workers.fisher import Fisher
from workers.footprint import factor_numbers
from workers.lowrank import SwitchableModel, switchable_module
from workers.matrices import find_matrices, linear_params, weight_OD
from workers.models import PreparedModel, load_prepared, prepare_model, resolve, weight_bytes
from workers.plan import EncodedTask, ModelSource
from workers.projections import Method, factor
from workers.refinement import TRAINED_BYTES, Refinement, refine

logger = logging.getLogger(__name__)

FORMAT = 5
REPORT_EVERY = 10
FACTORS, ENERGIES = "factors", "energies"


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """How far a phase is; `total` 0 while it is unknown."""

    phase: str
    done: int
    total: int


@dataclass(frozen=True, kw_only=True, slots=True)
class PreparationPlan:
    """What to prepare; every field but the last five shapes the result.

    `gram_bytes`: memory for Grams, see `workers.calibration.passes`.
    """

    model: ModelSource
    task: EncodedTask
    method: Method
    storage: Storage
    fisher: Fisher
    refinement: Refinement = field(default_factory=Refinement)
    seed: int
    batch_tokens: int
    threads: int
    device: str
    gram_bytes: int
    cache_dir: Path
    cache_limit_bytes: float = math.inf


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """The prepared model and its factors, as paths and numbers.

    `energies[i]` belongs to `matrices[i]`, see `workers.projections.Factors`. Parameter counts: `total_params`
    counts tied weights once; `block_params` are all weight matrices inside the blocks, biases not counted.
    """

    model: PreparedModel
    factors: Path
    matrices: tuple[MatrixShape, ...]
    energies: tuple[NDArray[np.float64], ...]
    total_params: int
    block_params: int


def prepare(plan: PreparationPlan) -> Iterator[Progress | Prepared]:
    """Yields progress and, last, the prepared job.

    Raises:
        InputError: The model cannot be used.
        ScoringError: Activations or gradients are not finite.
    """
    torch.set_num_threads(plan.threads)
    torch.manual_seed(plan.seed)
    device = pick_device(plan.device)
    yield Progress(phase="model", done=0, total=1)
    cache = FolderCache(plan.cache_dir, plan.cache_limit_bytes)
    prepared_model = prepare_model(resolve(plan.model), device, cache)
    key = _key(plan, prepared_model)
    with cache.lock(key):
        if cache.find(key) is None:
            yield from _build(plan, prepared_model, device, cache, key)
    factored = _read(prepared_model, cache.path(key))
    if plan.refinement.epochs == 0:
        yield factored
        return
    refined_key = content_key("refined", key, plan.task.split_digests["calibration"], asdict(plan.refinement))
    with cache.lock(refined_key):
        if cache.find(refined_key) is None:
            with cache.writing(refined_key) as scratch:
                yield from _refine(plan, factored, device, scratch)
    yield replace(factored, factors=cache.path(refined_key))


def load_factors(folder: Path) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Maps the factors into memory; every actor on the machine shares the pages.

    Returns:
        Matrix name → (left R×O, right R×D), components in rows.
    """
    factors: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    for shard in sorted(folder.glob(f"{FACTORS}*.safetensors")):
        with safetensors.safe_open(shard, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118  (not a dict)
                name, side = key.rsplit(":", 1)
                if side == "left":
                    factors[name] = (file.get_tensor(key), file.get_tensor(f"{name}:right"))
    return factors


def _key(plan: PreparationPlan, model: PreparedModel) -> str:
    calibration = plan.task.split_digests["calibration"] if plan.method != "weight" else None
    selection = [plan.model.include, plan.model.exclude]
    versions = [FORMAT, torch.__version__, transformers.__version__]
    return content_key(
        "factors",
        model.digest,
        model.dtype,
        calibration,
        plan.method,
        plan.storage,
        plan.fisher,
        selection,
        plan.seed,
        plan.batch_tokens,
        versions,
    )


def _build(
    plan: PreparationPlan, prepared: PreparedModel, device: torch.device, cache: FolderCache, key: str
) -> Iterator[Progress]:
    model = load_prepared(prepared.folder, device, _compute_dtype(prepared))
    matrices = find_matrices(model, plan.model.include, plan.model.exclude)
    groups = passes(matrices, plan.gram_bytes, from_input=plan.method == "input")
    if plan.method == "weight":
        groups = [matrices]
    parts = [content_key(key, [matrix.name for matrix in group]) for group in groups]
    for index, (part, group) in enumerate(zip(parts, groups, strict=True)):
        with cache.lock(part):
            if cache.find(part) is None:
                with cache.writing(part) as scratch:
                    for progress in _build_group(plan, prepared, model, group, scratch):
                        yield _of_all(progress, index, len(groups))
    with cache.writing(key) as scratch:
        for index, part in enumerate(parts):
            for name, suffix in ((FACTORS, "safetensors"), (ENERGIES, "npz")):
                os.link(cache.path(part) / f"{name}.{suffix}", scratch / f"{name}-{index:05d}.{suffix}")
        _write_facts(scratch, model, matrices)
    for part in parts:
        cache.remove(part)


def _of_all(progress: Progress, index: int, groups: int) -> Progress:
    """Progress of one group of several as progress of all, as if all took as long."""
    return replace(progress, done=index * progress.total + progress.done, total=groups * progress.total)


def _build_group(
    plan: PreparationPlan,
    prepared: PreparedModel,
    model: PreTrainedModel,
    matrices: Sequence[MatrixShape],
    folder: Path,
) -> Iterator[Progress]:
    grams = Grams()
    if plan.method != "weight":
        with Calibrator(
            model,
            matrices,
            gradients=plan.method == "task",
            from_input=plan.method == "input",
            fisher=plan.fisher,
        ) as calibrator:
            examples = plan.task.splits["calibration"]
            for done, total in calibrator.run(plan.task.kind, examples, plan.batch_tokens, plan.seed):
                yield Progress(phase="calibration", done=done, total=total)
        grams = calibrator.grams
    tensors: dict[str, torch.Tensor] = {}
    energies: dict[str, NDArray[np.float64]] = {}
    dtype = getattr(torch, prepared.dtype)
    for index, matrix in enumerate(matrices):
        weight = weight_OD(model.get_submodule(matrix.name))  # type: ignore[arg-type]
        # one component at least: a file of factors names every matrix
        rank = max(1, matrix.largest_rank(plan.storage))
        result = factor(weight, plan.method, rank, *grams.of(matrix.name))
        tensors |= _stored(matrix.name, result.left_RO, result.right_RD, dtype)
        energies[matrix.name] = result.energy_K.cpu().numpy()
        if (index + 1) % REPORT_EVERY == 0 or index + 1 == len(matrices):
            yield Progress(phase="projection", done=index + 1, total=len(matrices))
    save_file(tensors, folder / f"{FACTORS}.safetensors")
    np.savez(folder / f"{ENERGIES}.npz", allow_pickle=False, **energies)


def _refine(
    plan: PreparationPlan, prepared: Prepared, device: torch.device, folder: Path
) -> Iterator[Progress]:
    """Trains the closed-form factors and writes them beside; their energies stay what prices are made of."""
    space = SearchSpace(prepared.matrices, plan.refinement.rank_step, plan.storage)
    trained_bytes = TRAINED_BYTES * factor_numbers(prepared.matrices, plan.storage)
    require_memory(
        device, weight_bytes(prepared.model.folder) + weight_bytes(prepared.factors) + trained_bytes
    )
    model = load_prepared(prepared.model.folder, device, _compute_dtype(prepared.model))
    switchable = SwitchableModel(model, prepared.matrices, load_factors(prepared.factors))
    examples = plan.task.splits["calibration"]
    for done, total in refine(
        switchable,
        space,
        prepared.energies,
        plan.task.kind,
        examples,
        plan.refinement,
        plan.batch_tokens,
        plan.seed,
    ):
        yield Progress(phase="refinement", done=done, total=total)
    dtype = getattr(torch, prepared.model.dtype)
    tensors: dict[str, torch.Tensor] = {}
    for matrix in prepared.matrices:
        module = switchable_module(model, matrix.name)
        tensors |= _stored(matrix.name, module.left_RO, module.right_RD, dtype)
    save_file(tensors, folder / f"{FACTORS}.safetensors")


def _stored(
    name: str, left_RO: torch.Tensor, right_RD: torch.Tensor, dtype: torch.dtype
) -> dict[str, torch.Tensor]:
    """A matrix's factors as `load_factors` finds them in the file."""
    return {f"{name}:left": left_RO.to("cpu", dtype), f"{name}:right": right_RD.to("cpu", dtype)}


def _compute_dtype(model: PreparedModel) -> torch.dtype | None:
    """What gradients are computed in; those of float16 underflow."""
    return torch.float32 if model.dtype == "float16" else None


def _write_facts(folder: Path, model: PreTrainedModel, matrices: Sequence[MatrixShape]) -> None:
    facts = {
        "matrices": [asdict(matrix) for matrix in matrices],
        "total_params": sum(parameter.numel() for parameter in model.parameters()),
        "block_params": linear_params(model),
    }
    (folder / "facts.json").write_text(json.dumps(facts))


def _read(model: PreparedModel, folder: Path) -> Prepared:
    facts = json.loads((folder / "facts.json").read_text())
    matrices = tuple(MatrixShape(**matrix) for matrix in facts["matrices"])
    energies: dict[str, NDArray[np.float64]] = {}
    for shard in sorted(folder.glob(f"{ENERGIES}*.npz")):
        with np.load(shard, allow_pickle=False) as stored:
            energies.update(stored)
    return Prepared(
        model=model,
        factors=folder,
        matrices=matrices,
        energies=tuple(energies[matrix.name] for matrix in matrices),
        total_params=facts["total_params"],
        block_params=facts["block_params"],
    )
