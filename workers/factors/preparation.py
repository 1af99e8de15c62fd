"""Everything before the search: factors in closed form, and trained ones.

Training is optional. Generators, so that a Ray task or a test sees progress and can stop them between batches.
"""

from collections.abc import Generator, Iterator
from dataclasses import asdict, replace
from pathlib import Path

from ranksieve.workers.cache.folders import FolderCache, content_key
from ranksieve.workers.factors.closed_form import factors_in_closed_form
from ranksieve.workers.factors.prepared import (
    PreparationPlan,
    Prepared,
    compute_dtype,
    with_factors,
    write_factors,
)
from ranksieve.workers.factors.training import TRAINED_BYTES, train
from ranksieve.workers.machine.devices import pick_device, require_memory
from ranksieve.workers.model.attention import suit_gradients
from ranksieve.workers.model.loading import load_prepared, weight_bytes
from ranksieve.workers.model.matrices import factor_numbers
from ranksieve.workers.types.progress import Progress


def prepare(plan: PreparationPlan) -> Iterator[Progress | Prepared]:
    """Yield progress and, last, the prepared job.

    Raises:
        InputError: The model cannot be used.
        ScoringError: Activations or gradients are not finite.
    """
    made = yield from factors_in_closed_form(plan)
    if plan.training.epochs:
        made = replace(made, factors=(yield from _trained(plan, made)))
    yield made


def closed_form(plan: PreparationPlan) -> Iterator[Progress | Prepared]:
    """Yield progress and, last, the job with factors in closed form only.

    Several workers may run the same plan.

    Raises:
        InputError: The model cannot be used.
        ScoringError: Activations or gradients are not finite.
    """
    yield (yield from factors_in_closed_form(plan))


def _trained(plan: PreparationPlan, made: Prepared) -> Generator[Progress, None, Path]:
    """Yield progress and return the cache entry of trained factors."""
    cache = FolderCache(plan.cache_dir, plan.cache_limit_bytes)
    key = content_key("trained", made.factors.name, asdict(plan.training))
    with cache.lock(key):
        if cache.find(key) is None:
            with cache.writing(key) as scratch:
                yield from _train(plan, made, scratch)
    return cache.path(key)


def _train(plan: PreparationPlan, prepared: Prepared, folder: Path) -> Iterator[Progress]:
    """Train the factors and write them; their energies stay those of the prices.

    Raises:
        InfrastructureError: An accelerator has too little memory left.
    """
    device, dense = pick_device(plan.device), prepared.model
    trained_bytes = TRAINED_BYTES * factor_numbers(prepared.matrices)
    require_memory(device, weight_bytes(dense.folder) + weight_bytes(prepared.factors) + trained_bytes)
    model = suit_gradients(load_prepared(dense.folder, device, compute_dtype(dense), prepared.matrices))
    switchable = with_factors(model, prepared.matrices, prepared.factors)
    for done, total in train(
        switchable,
        prepared.space(plan.training.rank_step),
        prepared.energies,
        plan.task.kind,
        plan.task.splits["calibration"][: plan.training.examples],
        plan.training,
        plan.batch_tokens,
        plan.seed,
    ):
        yield Progress(phase="training", done=done, total=total)
    write_factors(switchable, prepared, folder)
