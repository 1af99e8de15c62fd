"""Everything before the search: factors in closed form, propagated and trained.

Propagation and training are optional. Generators, so that a Ray task or a test sees progress and can stop them between
batches.
"""

import json
import logging
import math
import shutil
from collections.abc import Callable, Generator, Iterator
from dataclasses import asdict, fields, replace
from functools import partial
from pathlib import Path
from statistics import mode
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ranksieve.search.errors import ScoringError
from ranksieve.search.space.objectives import MaxDrop
from ranksieve.search.space.prices import Energies
from ranksieve.search.start.seeds import lagrangian
from ranksieve.workers.cache.folders import FolderCache, content_key
from ranksieve.workers.factors.closed_form import factors_in_closed_form
from ranksieve.workers.factors.prepared import (
    ENERGIES,
    FACTS,
    PreparationPlan,
    Prepared,
    Propagation,
    compute_dtype,
    read,
    with_factors,
    write_factors,
)
from ranksieve.workers.factors.propagation import (
    ALPHA,
    AROUND,
    DENSE_WEIGHT,
    JUDGED,
    JUDGING,
    MOST_EXAMPLES,
    MOST_JUDGES,
    MOST_TOKENS,
    models_of,
    propagate,
    shares_within,
    split_for_propagation,
)
from ranksieve.workers.factors.training import TRAINED_BYTES, refine
from ranksieve.workers.forward.loss import QUALITIES, example_losses
from ranksieve.workers.machine.devices import pick_device, require_memory
from ranksieve.workers.model.attention import suit_gradients
from ranksieve.workers.model.loading import load_prepared, weight_bytes
from ranksieve.workers.model.matrices import factor_numbers
from ranksieve.workers.model.switchable import SwitchableModel
from ranksieve.workers.types.progress import Progress

logger = logging.getLogger(__name__)

PROPAGATION = "propagation.json"

_Writer = Callable[[PreparationPlan, Prepared, torch.device, Path], Iterator[Progress]]


def prepare(plan: PreparationPlan) -> Iterator[Progress | Prepared]:
    """Yield progress and, last, the prepared job.

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
    """Yield progress and, last, the job with factors that are not trained.

    Raises:
        InputError: The model cannot be used.
        ScoringError: Activations or gradients are not finite.
    """
    yield (yield from _propagated(plan))


def closed_form(plan: PreparationPlan) -> Iterator[Progress | Prepared]:
    """Yield progress and, last, the job with factors in closed form only.

    Several workers may run the same plan.

    Raises:
        InputError: The model cannot be used.
        ScoringError: Activations or gradients are not finite.
    """
    yield (yield from factors_in_closed_form(plan))


def _propagated(plan: PreparationPlan) -> Generator[Progress, None, Prepared]:
    made = yield from factors_in_closed_form(plan)
    if not plan.propagated_shares:
        return made
    sizes = plan.propagated_shares
    target = [sizes.points, QUALITIES] if isinstance(sizes, MaxDrop) else sizes
    job_settings = [target, plan.refinement.rank_step, plan.refinement.kl_weight]
    recorded = [field.name for field in fields(Propagation)]
    constants = [AROUND, ALPHA, DENSE_WEIGHT, MOST_EXAMPLES, MOST_TOKENS, JUDGED, MOST_JUDGES, JUDGING]
    settings = [job_settings, recorded, *constants]
    try:
        folder = yield from _after(plan, made, "propagated", settings, _propagate)
    except ScoringError as error:
        logger.warning("errors cannot be propagated: %s", error)
        return replace(made, propagation=Propagation(reason=str(error)))
    saved = json.loads((folder / PROPAGATION).read_text())
    propagation = Propagation(**{**saved, "shares": tuple(saved["shares"])})
    return replace(
        read(made.model, folder, plan.tuned) if propagation.kept else made, propagation=propagation
    )


def _after(
    plan: PreparationPlan, made: Prepared, name: str, settings: Any, write: _Writer
) -> Generator[Progress, None, Path]:
    """Yield progress and return the cache entry of factors improved by `write`."""
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
    """Renew the factors for inputs in smaller models; write them if they help."""
    sizes, before = plan.propagated_shares, prepared.energies
    switchable = _switchable(prepared, device, _propagation_bytes(prepared, models_of(sizes)))
    space = prepared.space(plan.refinement.rank_step)
    examples, judges = split_for_propagation(plan.task.splits["calibration"])

    def ranks_of(energies: Energies, share: float) -> tuple[int, ...]:
        return space.ranks(lagrangian(space, energies, share))

    if isinstance(sizes, MaxDrop):
        shares = shares_within(sizes, switchable, partial(ranks_of, before), judges, plan.batch_tokens)
    else:
        shares = sizes

    def losses(energies: Energies, share: float, kl_weight: float) -> torch.Tensor:
        ranks = ranks_of(energies, share)
        return example_losses(switchable, ranks, plan.task.kind, judges, plan.batch_tokens, kl_weight)

    middle = math.prod(shares) ** (1 / len(shares))
    before_E = losses(before, middle, plan.refinement.kl_weight)
    energies: dict[str, NDArray[np.floating]] = {}
    candidates = [ranks_of(before, share) for share in shares]
    says = plan.refinement.kl_weight < 1
    for block in propagate(switchable, candidates, before, examples, plan.batch_tokens, answer_bias=says):
        energies |= block.energies
        yield Progress(phase="propagation", done=block.done, total=block.total)
    after = [energies[matrix.name] for matrix in prepared.matrices]
    bias_V = _take_bias_(switchable, lambda: sum(float(losses(after, share, 0.0).mean()) for share in shares))
    after_E = losses(after, middle, plan.refinement.kl_weight)
    if bias_V is not None:
        switchable.set_answer_bias(bias_V)
    propagation = Propagation(
        shares=shares,
        loss_before=float(before_E.mean()),
        loss_after=float(after_E.mean()),
        standard_error=float((after_E - before_E).std(correction=0)) / math.sqrt(len(judges)),
        answer_bias=bias_V is not None,
    )
    (folder / PROPAGATION).write_text(json.dumps(asdict(propagation)))
    if propagation.kept:
        write_factors(switchable, prepared, folder)
        np.savez(folder / f"{ENERGIES}.npz", allow_pickle=False, **energies)
        shutil.copyfile(prepared.factors / FACTS, folder / FACTS)


def _take_bias_(switchable: SwitchableModel, unlikelihood: Callable[[], float]) -> torch.Tensor | None:
    """Remove the answer bias, and return it if it makes right answers likelier."""
    if (bias_V := switchable.answer_bias) is None:
        return None
    with_bias = unlikelihood()
    switchable.set_answer_bias(None)
    return bias_V if with_bias < unlikelihood() else None


def _propagation_bytes(prepared: Prepared, candidates: int) -> int:
    """Estimate the memory of the flows and five float64 moments of the widest input."""
    widths = [matrix.in_features for matrix in prepared.matrices]
    item: int = getattr(torch, prepared.model.dtype).itemsize
    return (1 + candidates) * MOST_TOKENS * mode(widths) * item + 5 * 8 * max(widths) ** 2


def _refine(
    plan: PreparationPlan, prepared: Prepared, device: torch.device, folder: Path
) -> Iterator[Progress]:
    """Train the factors and write them; their energies stay those of the prices."""
    space = prepared.space(plan.refinement.rank_step)
    trained_bytes = TRAINED_BYTES * factor_numbers(prepared.matrices)
    switchable = _switchable(prepared, device, trained_bytes, compute_dtype(prepared.model))
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
    write_factors(switchable, prepared, folder)


def _switchable(
    prepared: Prepared, device: torch.device, extra_bytes: int = 0, dtype: torch.dtype | None = None
) -> SwitchableModel:
    """Return the model with its factors, in its own dtype or another one.

    `extra_bytes` of memory must remain free.

    Raises:
        InfrastructureError: An accelerator has too little memory left.
    """
    require_memory(device, weight_bytes(prepared.model.folder) + weight_bytes(prepared.factors) + extra_bytes)
    model = suit_gradients(load_prepared(prepared.model.folder, device, dtype, prepared.matrices))
    return with_factors(model, prepared.matrices, prepared.factors)
