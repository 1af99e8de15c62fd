"""Peak memory of the phases after preparation, by formula."""

from ranksieve.workers.cost.footprint import (
    HEAP,
    PROCESS_BYTES,
    Footprint,
    batch_bytes,
    factor_bytes,
    on_fullest,
    placed,
    weight_bytes,
)
from ranksieve.workers.cost.latency_measurement import MOST_RANKS
from ranksieve.workers.cost.shapes import JobSize, Load, ModelSize
from ranksieve.workers.machine.devices import CONTEXT_BYTES
from ranksieve.workers.model.filesize import ITEM_BYTES


def timing(model: ModelSize, job: JobSize) -> Footprint:
    """Return the footprint of timing by one worker.

    It holds the model, a batch, and layers in place of its own. These are first of one matrix of each shape, at ranks
    spread evenly. Then they are of all matrices: one with half of its numbers, and one with at most as many as it
    has. The first layers are not freed before the others exist.
    """
    of_shape = {(m.out_features, m.in_features): m.dense_params for m in model.matrices}
    numbers = (MOST_RANKS + 3) * sum(of_shape.values()) + 3 * sum(m.dense_params for m in model.matrices)
    layers, weights = numbers // 2 * ITEM_BYTES[job.dtype], weight_bytes(model, job)
    batch = batch_bytes(model, job, job.loads["latency"], ITEM_BYTES[job.dtype])
    return placed(job, weights, on_fullest(weights + layers, model, job), batch)


def scoring(model: ModelSize, job: JobSize, load: Load) -> Footprint:
    """Return the footprint of scoring.

    Each actor holds the model and a batch. On a host all share one memory map of the factors; a GPU gets copies. Where
    candidates are rounded, each actor holds the model, the rounded one and its own factors.
    """
    weights, factors = weight_bytes(model, job), factor_bytes(model.matrices, job.dtype)
    batch = batch_bytes(model, job, load, ITEM_BYTES[job.dtype])
    own = factors if job.rounded else 0
    weights *= 2 if job.rounded else 1
    if job.device == "cpu":
        return Footprint(host_bytes=job.actors * (PROCESS_BYTES + weights + own + HEAP * batch) + factors)
    return Footprint(
        host_bytes=job.actors * (PROCESS_BYTES + weights) + factors,
        accelerator_bytes=job.actors_per_device
        * (CONTEXT_BYTES + on_fullest(weights + factors, model, job) + batch),
    )


def exporting(model: ModelSize, job: JobSize) -> Footprint:
    """Return the footprint of an export: the dense model and its replacements.

    The factors that replace matrices take at most the model's size again.
    """
    return Footprint(host_bytes=PROCESS_BYTES + 2 * weight_bytes(model, job))


def verifying(model: ModelSize, job: JobSize) -> Footprint:
    """Return the footprint of the exported and the dense model side by side."""
    weights = weight_bytes(model, job)
    batch = batch_bytes(model, job, job.loads["verify"], ITEM_BYTES[job.dtype])
    working = on_fullest(2 * weights, model, job) + batch
    if job.device == "cpu":
        return Footprint(host_bytes=PROCESS_BYTES + working + (HEAP - 1) * batch)
    return Footprint(host_bytes=PROCESS_BYTES + weights, accelerator_bytes=CONTEXT_BYTES + working)
