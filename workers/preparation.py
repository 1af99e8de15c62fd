"""Everything before the search: model on disk, Grams, factors, which may be propagated and trained, in the cache.

Generators, so that whoever runs them (a Ray task, a test) sees progress and can stop them between batches.

Several workers may run `closed_form` of the same plan at once: they share its work through the cache, see
`workers.shards`, and all return the same. Where the Grams do not fit into memory together, groups of matrices are
factored in passes of their own. What is done - a shard of the calibration batches, a few matrices - is a cache entry,
so that a run that was cut off goes on from there.
"""

import json
import logging
import math
import os
import shutil
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from statistics import mode
from typing import Any

import numpy as np
import safetensors
import torch
import transformers
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from search.errors import InfrastructureError, ScoringError
from search.matrix import MatrixShape, Storage
from search.objectives import MaxDrop
from search.prices import Energies
from search.seeds import lagrangian
from search.space import SearchSpace
from workers.attention import suit_gradients
from workers.cache import FolderCache, content_key
from workers.calibration import passes
from workers.devices import lack_of_memory, pick_device, require_memory
from workers.factoring import ENERGIES, FACTORS, MatrixGroup, Recipe, stored
from workers.fisher import Fisher
from workers.footprint import factor_numbers
from workers.lowrank import SwitchableModel, switchable_module
from workers.matrices import find_matrices, linear_params
from workers.midway import examples_of_the_way, go_midway
from workers.models import PreparedModel, load_prepared, prepare_model, resolve, weight_bytes
from workers.plan import EncodedTask, Example, ModelSource
from workers.projections import Method
from workers.propagation import (
    ALPHA,
    AROUND,
    DENSE_WEIGHT,
    JUDGED,
    MOST_EXAMPLES,
    MOST_JUDGES,
    MOST_TOKENS,
    Sizes,
    models_of,
    propagate,
    shares_within,
    split_for_propagation,
)
from workers.refinement import TRAINED_BYTES, Refinement, refine
from workers.task_loss import mean_loss

logger = logging.getLogger(__name__)

FORMAT = 12

FACTS, PROPAGATION, ANSWER_BIAS = "facts.json", "propagation.json", "answer_bias.safetensors"

Towards = tuple[Path, Sequence[int]]
"""Factors and ranks of the smaller model on the way to which Grams are gathered, if not in the dense one."""

GATHERING = {"calibration": "recalibration", "projection": "reprojection"}
"""Phases of making factors, and what they are called where it is done again, midway."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """How far a phase is; `total` 0 while it is unknown."""

    phase: str
    done: int
    total: int


@dataclass(frozen=True, kw_only=True, slots=True)
class PreparationPlan:
    """What to prepare; every field but the last six shapes the result.

    `midway_share`: of `task` factors, the share of the parameters that the smaller model keeps on the way to which the
    second moments are taken, see `workers.midway`; None for the dense model's.
    `propagated_shares`: of `task` factors, what the models keep in which errors are propagated, or how much of the
    metric of `choice` they may lose, see `workers.propagation`; none: they are not.
    `threads`: of one worker. `gram_bytes`: memory of one worker for Grams, see `workers.calibration.passes`.
    `workers`: how many run `closed_form` at once.
    """

    model: ModelSource
    task: EncodedTask
    method: Method
    storage: Storage
    fisher: Fisher
    gram_examples: int | None = None
    midway_share: float | None = None
    propagated_shares: Sizes = ()
    refinement: Refinement = field(default_factory=Refinement)
    seed: int
    batch_tokens: int
    threads: int
    device: str
    gram_bytes: int
    cache_dir: Path
    cache_limit_bytes: float = math.inf
    workers: int = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Propagation:
    """What error propagation came to: the loss of a model in the middle of those sizes, before it and after.

    In nats, on calibration records that the factors were not made of, see `workers.task_loss`. `shares`: what the
    models keep in which they are propagated. `answer_bias`: whether the output head has a bias with them, which is not
    in those losses: it makes the right answers likelier there, and may diverge from the dense model by it. `reason`:
    why errors could not be propagated.
    """

    shares: tuple[float, ...] = ()
    loss_before: float | None = None
    loss_after: float | None = None
    answer_bias: bool = False
    reason: str | None = None

    @property
    def kept(self) -> bool:
        """Whether the new factors are taken: where a model loses less with them."""
        return (
            self.loss_before is not None
            and self.loss_after is not None
            and self.loss_after < self.loss_before
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """The prepared model and its factors, as paths and numbers.

    `energies[i]` belongs to `matrices[i]`, see `workers.projections.Factors`. Parameter counts: `total_params`
    counts tied weights once; `block_params` are all weight matrices inside the blocks, biases not counted.
    `propagation`: what came of it, where it was wanted.
    """

    model: PreparedModel
    factors: Path
    matrices: tuple[MatrixShape, ...]
    energies: tuple[NDArray[np.float64], ...]
    total_params: int
    block_params: int
    propagation: Propagation | None = None


_Writer = Callable[[PreparationPlan, Prepared, torch.device, Path], Iterator[Progress]]


def prepare(plan: PreparationPlan) -> Iterator[Progress | Prepared]:
    """Yields progress and, last, the prepared job.

    Raises:
        InputError: The model cannot be used.
        ScoringError: Activations or gradients are not finite.
    """
    made = yield from _propagated(plan)
    if plan.refinement.epochs:
        trained = yield from _after(plan, made, "refined", asdict(plan.refinement), _refine)
        made = replace(made, factors=trained)
    yield made


def propagated(plan: PreparationPlan) -> Iterator[Progress | Prepared]:
    """Yields progress and, last, the job with factors that are not trained.

    Raises:
        InputError: The model cannot be used.
        ScoringError: Activations or gradients are not finite.
    """
    yield (yield from _propagated(plan))


def closed_form(plan: PreparationPlan) -> Iterator[Progress | Prepared]:
    """Yields progress and, last, the job with factors neither propagated nor trained; several workers may run it.

    Raises:
        InputError: The model cannot be used.
        ScoringError: Activations or gradients are not finite.
    """
    yield (yield from _closed_form(plan))


def gathered_midway(
    plan: PreparationPlan, way: Prepared, ranks: Sequence[int]
) -> Generator[Progress, None, Prepared]:
    """Yields progress and returns the job with factors whose Grams are gathered midway to a candidate.

    Args:
        plan: As of `closed_form`, but for `midway_share`.
        way: Has the candidate's factors.
        ranks: The candidate: one per matrix, -1 leaves it dense.
    """
    cache = FolderCache(plan.cache_dir, plan.cache_limit_bytes)
    key = content_key("midway", way.factors.name, ranks, len(_gathered(plan)))
    return (yield from _made(plan, way.model, pick_device(plan.device), cache, key, (way.factors, ranks)))


def with_factors(model: PreTrainedModel, matrices: Sequence[MatrixShape], folder: Path) -> SwitchableModel:
    """A model with the factors of a folder, and the bias of the output head that goes with them."""
    made = SwitchableModel(model, matrices, load_factors(folder))
    if (bias_V := load_answer_bias(folder)) is not None:
        made.set_answer_bias(bias_V)
    return made


def load_answer_bias(folder: Path) -> torch.Tensor | None:
    """What goes with the factors of a folder in every candidate but the dense model, see `workers.answer_bias`."""
    file = folder / ANSWER_BIAS
    return load_file(file)["bias"] if file.exists() else None


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
        len(_gathered(plan)),
        selection,
        plan.seed,
        plan.batch_tokens,
        versions,
    )


def _closed_form(plan: PreparationPlan) -> Generator[Progress, None, Prepared]:
    torch.set_num_threads(plan.threads)
    torch.manual_seed(plan.seed)
    device = pick_device(plan.device)
    yield Progress(phase="model", done=0, total=1)
    cache = FolderCache(plan.cache_dir, plan.cache_limit_bytes)
    model = prepare_model(resolve(plan.model), device, cache)
    if plan.midway_share is None:
        return (yield from _made(plan, model, device, cache, _key(plan, model)))
    examples = len(_gathered(plan))
    few = replace(plan, gram_examples=examples_of_the_way(examples))
    key = content_key("way", _key(few, model))
    dense = yield from _made(few, model, device, cache, key, precision=torch.float32)
    space = SearchSpace(dense.matrices, plan.refinement.rank_step, plan.storage)
    ranks = space.ranks(lagrangian(space, dense.energies, plan.midway_share))
    return (yield from gathered_midway(plan, dense, ranks))


def _propagated(plan: PreparationPlan) -> Generator[Progress, None, Prepared]:
    made = yield from _closed_form(plan)
    if not plan.propagated_shares:
        return made
    sizes = plan.propagated_shares
    told = sizes.points if isinstance(sizes, MaxDrop) else sizes
    of_job = [told, plan.refinement.rank_step, plan.refinement.kl_weight]
    told_of = [field.name for field in fields(Propagation)]
    settings = [of_job, told_of, AROUND, ALPHA, DENSE_WEIGHT, MOST_EXAMPLES, MOST_TOKENS, JUDGED, MOST_JUDGES]
    try:
        folder = yield from _after(plan, made, "propagated", settings, _propagate)
    except (InfrastructureError, MemoryError, torch.AcceleratorError):
        raise
    except Exception as error:  # whatever a model's own code makes of blocks that are not run
        if lack_of_memory(error):
            raise
        reason = str(error) if isinstance(error, ScoringError) else f"{type(error).__name__}: {error}"
        logger.warning("errors cannot be propagated: %s", reason)
        return replace(made, propagation=Propagation(reason=reason))
    saved = json.loads((folder / PROPAGATION).read_text())
    propagation = Propagation(**{**saved, "shares": tuple(saved["shares"])})
    return replace(_read(made.model, folder) if propagation.kept else made, propagation=propagation)


def _made(
    plan: PreparationPlan,
    model: PreparedModel,
    device: torch.device,
    cache: FolderCache,
    key: str,
    towards: Towards | None = None,
    precision: torch.dtype = torch.float64,
) -> Generator[Progress, None, Prepared]:
    """The factors of a key: from the cache, or built until they are there."""
    while not _is_whole(cache, key):
        for step in _build(plan, model, device, cache, key, towards, precision):
            yield step if towards is None else replace(step, phase=GATHERING[step.phase])
    return _read(model, cache.path(key))


def _build(
    plan: PreparationPlan,
    prepared: PreparedModel,
    device: torch.device,
    cache: FolderCache,
    key: str,
    towards: Towards | None,
    precision: torch.dtype,
) -> Iterator[Progress]:
    """Does what nobody else has taken, waits for what others do, and puts all together if nobody has."""
    model = suit_gradients(load_prepared(prepared.folder, device, _compute_dtype(prepared)))
    matrices = find_matrices(model, plan.model.include, plan.model.exclude)
    if towards is not None:
        factors, ranks = towards
        go_midway(model, matrices, ranks, load_factors(factors))
    recipe = _recipe(plan, prepared, precision)
    passed = passes(matrices, plan.gram_bytes, from_input=plan.method == "input")
    groups = [
        MatrixGroup(cache, key, model, some, recipe, plan.workers)
        for some in ([matrices] if plan.method == "weight" else passed)
    ]
    for index, group in enumerate(groups):
        yield from _of_all(_work(group), index, len(groups))
    for index, group in enumerate(groups):
        while not group.done:
            group.wait()
            yield from _of_all(_work(group), index, len(groups))
    parts = [part for group in groups for part in group.parts]
    with cache.lock(key):
        if not cache.has(key) and all([_is_whole(cache, part) for part in parts]):
            with cache.writing(key) as scratch:
                for index, part in enumerate(parts):
                    for name, suffix in ((FACTORS, "safetensors"), (ENERGIES, "npz")):
                        os.link(
                            cache.path(part) / f"{name}.{suffix}", scratch / f"{name}-{index:05d}.{suffix}"
                        )
                _write_facts(scratch, model, matrices)
    if cache.has(key):
        for group in groups:
            group.discard()


def _work(group: MatrixGroup) -> Iterator[Progress]:
    for done, total in group.gather():
        yield Progress(phase="calibration", done=done, total=total)
    for done, total in group.factor():
        yield Progress(phase="projection", done=done, total=total)


def _of_all(steps: Iterator[Progress], index: int, groups: int) -> Iterator[Progress]:
    """Progress of one group of several as progress of all, as if all took as long."""
    for step in steps:
        yield replace(step, done=index * step.total + step.done, total=groups * step.total)


def _is_whole(cache: FolderCache, key: str) -> bool:
    with cache.lock(key):
        return cache.find(key) is not None


def _gathered(plan: PreparationPlan) -> Sequence[Example]:
    """The calibration examples that give the second moments."""
    return plan.task.splits["calibration"][: plan.gram_examples]


def _recipe(plan: PreparationPlan, prepared: PreparedModel, precision: torch.dtype) -> Recipe:
    return Recipe(
        kind=plan.task.kind,
        examples=_gathered(plan),
        method=plan.method,
        storage=plan.storage,
        fisher=plan.fisher,
        seed=plan.seed,
        batch_tokens=plan.batch_tokens,
        precision=precision,
        dtype=getattr(torch, prepared.dtype),
    )


def _after(
    plan: PreparationPlan, made: Prepared, name: str, settings: Any, write: _Writer
) -> Generator[Progress, None, Path]:
    """Yields progress and returns the entry of what becomes of factors on the calibration split."""
    cache = FolderCache(plan.cache_dir, plan.cache_limit_bytes)
    key = content_key(name, made.factors.name, plan.task.split_digests["calibration"], settings)
    with cache.lock(key):
        if cache.find(key) is None:
            with cache.writing(key) as scratch:
                yield from write(plan, made, pick_device(plan.device), scratch)
    return cache.path(key)


def _propagate(
    plan: PreparationPlan, prepared: Prepared, device: torch.device, folder: Path
) -> Iterator[Progress]:
    """Makes the factors anew for what matrices read in smaller models; writes them and their energies, if they help."""
    sizes, before = plan.propagated_shares, prepared.energies
    switchable = _switchable(prepared, device, _propagation_bytes(prepared, models_of(sizes)))
    space = SearchSpace(prepared.matrices, plan.refinement.rank_step, plan.storage)
    examples, judges = split_for_propagation(plan.task.splits["calibration"])

    def ranks_of(energies: Energies, share: float) -> tuple[int, ...]:
        return space.ranks(lagrangian(space, energies, share))

    if isinstance(sizes, MaxDrop):
        shares = shares_within(sizes, switchable, partial(ranks_of, before), judges, plan.batch_tokens)
    else:
        shares = sizes

    def loss(energies: Energies, kl_weight: float) -> float:
        ranks = ranks_of(energies, math.prod(shares) ** (1 / len(shares)))
        return mean_loss(switchable, ranks, plan.task.kind, judges, plan.batch_tokens, kl_weight)

    loss_before = loss(before, plan.refinement.kl_weight)
    energies: dict[str, NDArray[np.floating]] = {}
    candidates = [ranks_of(before, share) for share in shares]
    says = plan.refinement.kl_weight < 1
    for block in propagate(switchable, candidates, before, examples, plan.batch_tokens, answer_bias=says):
        energies |= block.energies
        yield Progress(phase="propagation", done=block.done, total=block.total)
    after = [energies[matrix.name] for matrix in prepared.matrices]
    bias_V = _take_bias_(switchable, lambda: loss(after, 0.0))
    loss_after = loss(after, plan.refinement.kl_weight)
    if bias_V is not None:
        switchable.set_answer_bias(bias_V)
    propagation = Propagation(
        shares=shares, loss_before=loss_before, loss_after=loss_after, answer_bias=bias_V is not None
    )
    (folder / PROPAGATION).write_text(json.dumps(asdict(propagation)))
    if propagation.kept:
        _write_factors(switchable, prepared, folder)
        np.savez(folder / f"{ENERGIES}.npz", allow_pickle=False, **energies)
        shutil.copyfile(prepared.factors / FACTS, folder / FACTS)


def _take_bias_(switchable: SwitchableModel, unlikelihood: Callable[[], float]) -> torch.Tensor | None:
    """Takes the answer bias away, where there is one; returns it where the right answers are likelier with it."""
    if (bias_V := switchable.answer_bias) is None:
        return None
    with_bias = unlikelihood()
    switchable.set_answer_bias(None)
    return bias_V if with_bias < unlikelihood() else None


def _propagation_bytes(prepared: Prepared, candidates: int) -> int:
    """About what the flows take, and five float64 moments of the widest input."""
    widths = [matrix.in_features for matrix in prepared.matrices]
    item: int = getattr(torch, prepared.model.dtype).itemsize
    return (1 + candidates) * MOST_TOKENS * mode(widths) * item + 5 * 8 * max(widths) ** 2


def _refine(
    plan: PreparationPlan, prepared: Prepared, device: torch.device, folder: Path
) -> Iterator[Progress]:
    """Trains the factors and writes them; their energies stay what prices are made of."""
    space = SearchSpace(prepared.matrices, plan.refinement.rank_step, plan.storage)
    trained_bytes = TRAINED_BYTES * factor_numbers(prepared.matrices, plan.storage)
    switchable = _switchable(prepared, device, trained_bytes, _compute_dtype(prepared.model))
    examples = plan.task.splits["calibration"][: plan.refinement.examples]
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
    _write_factors(switchable, prepared, folder)


def _switchable(
    prepared: Prepared, device: torch.device, extra_bytes: int = 0, dtype: torch.dtype | None = None
) -> SwitchableModel:
    """The model with its factors, in its own dtype or another one, and room for so much more.

    Raises:
        InfrastructureError: An accelerator has not as much memory left.
    """
    require_memory(device, weight_bytes(prepared.model.folder) + weight_bytes(prepared.factors) + extra_bytes)
    model = suit_gradients(load_prepared(prepared.model.folder, device, dtype))
    return with_factors(model, prepared.matrices, prepared.factors)


def _write_factors(switchable: SwitchableModel, prepared: Prepared, folder: Path) -> None:
    dtype = getattr(torch, prepared.model.dtype)
    tensors: dict[str, torch.Tensor] = {}
    for matrix in prepared.matrices:
        module = switchable_module(switchable.model, matrix.name)
        tensors |= stored(matrix.name, module.left_RO, module.right_RD, dtype)
    save_file(tensors, folder / f"{FACTORS}.safetensors")
    if switchable.answer_bias is not None:
        save_file({"bias": switchable.answer_bias.to(dtype)}, folder / ANSWER_BIAS)


def _compute_dtype(model: PreparedModel) -> torch.dtype | None:
    """What gradients are computed in; those of float16 underflow."""
    return torch.float32 if model.dtype == "float16" else None


def _write_facts(folder: Path, model: PreTrainedModel, matrices: Sequence[MatrixShape]) -> None:
    facts = {
        "matrices": [asdict(matrix) for matrix in matrices],
        "total_params": sum(parameter.numel() for parameter in model.parameters()),
        "block_params": linear_params(model),
    }
    (folder / FACTS).write_text(json.dumps(facts))


def _read(model: PreparedModel, folder: Path) -> Prepared:
    facts = json.loads((folder / FACTS).read_text())
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
