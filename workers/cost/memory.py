"""Peak memory of each phase of a job, and the bytes that it writes, by formula.

Where a model is spread over several GPUs, so are its weights, factors and activations, block by block. The Grams that
are gathered at once may all belong to one GPU's blocks, and the logits are on the first GPU. Memory of Ray, the
server and the page cache is not included.

Legend: K width of a Gram, O×D a matrix, H hidden width, R rank.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ranksieve.search.space.matrix import MatrixShape
from ranksieve.workers.cost.latency import MOST_RANKS
from ranksieve.workers.cost.shapes import (
    JobSize,
    Load,
    ModelSize,
    gram_passes,
    grams_per_matrix,
    shards_of,
)
from ranksieve.workers.factors.decomposition import Method
from ranksieve.workers.factors.grams import BYTES_PER_ENTRY, gram_numbers
from ranksieve.workers.factors.group import CHUNK, decomposed_at_once
from ranksieve.workers.factors.passes import gram_width
from ranksieve.workers.factors.shards import SPILLED_PER_WORKER
from ranksieve.workers.factors.training import TRAINED_BYTES
from ranksieve.workers.forward.blockwise import ROWS
from ranksieve.workers.machine.devices import CONTEXT_BYTES
from ranksieve.workers.model.attention import SHORT
from ranksieve.workers.model.filesize import ITEM_BYTES
from ranksieve.workers.model.matrices import factor_numbers

PROCESS_BYTES = 450 * 2**20
"""A Python process with torch, transformers and a tokenized task, no model."""

HEAP = 3
"""Memory of a batch on a host, relative to inputs and outputs of matrices.

The rest is kept by norms and gates, or not given back by the C library.
"""


LOGIT_BYTES = 17
"""Bytes of a logit and its gradient, where a probe is drawn from it.

They are float32 four times, and the logit itself.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Footprint:
    """Peak bytes, over all processes of the host and on the fullest accelerator."""

    host_bytes: int
    accelerator_bytes: int = 0


def weight_bytes(model: ModelSize, job: JobSize) -> int:
    """Return the bytes of the dense model in the working dtype."""
    return model.total_params * ITEM_BYTES[job.dtype]


def factor_bytes(matrices: Sequence[MatrixShape], dtype: str) -> int:
    """Return the bytes of the factors in the working dtype."""
    return factor_numbers(matrices) * ITEM_BYTES[dtype]


def preparing(model: ModelSize, job: JobSize) -> Footprint:
    """Return the peak of all parts of preparation."""
    parts = preparation(model, job).values()
    return Footprint(
        host_bytes=max(part.host_bytes for part in parts),
        accelerator_bytes=max(part.accelerator_bytes for part in parts),
    )


def preparation(model: ModelSize, job: JobSize) -> dict[str, Footprint]:
    """Return the footprint of each part of preparation, by its progress name.

    The parts run one after the other. Parts that are not wanted take nothing.
    """
    return {
        "model": _loading(model, job),
        "calibration": _calibrating(model, job),
        "propagation": _propagating(model, job),
        "refinement": _training(model, job),
    }


def _loading(model: ModelSize, job: JobSize) -> Footprint:
    """Return the footprint of loading the model.

    A gguf file is de-quantized to float32.
    """
    dequantized = model.total_params * 4 if job.gguf else 0
    return Footprint(host_bytes=PROCESS_BYTES + weight_bytes(model, job) + dequantized)


def _calibrating(model: ModelSize, job: JobSize) -> Footprint:
    """Return the larger footprint of calibrating and factoring, on all workers.

    A worker calibrates with the model, the Grams of the largest group and a batch, midway with the factors of a
    smaller model as well. It factors with the model, a chunk's Grams and factors, and float64 copies of the matrices
    decomposed at once. Sums that it writes pass through the host.
    """
    compute = _compute_bytes(job)
    grams = _largest_grams(model, job)
    stored = max(factor_bytes(chunk, job.dtype) for chunk in _chunks(model))
    chunk = max(_gram_bytes(chunk, job) for chunk in _chunks(model))
    heap = HEAP if job.device == "cpu" else 1
    working = (
        _on_one(model.total_params * compute, model, job)
        + _on_one(int(model.block_params * compute * (job.midway_share or 0)), model, job)
        + max(
            grams + heap * _calibration_batch(model, job, job.loads["calibration"], job.method, compute),
            min(grams, chunk) + _workspace(model, job),
        )
    )
    if job.device == "cpu":
        return Footprint(host_bytes=job.actors * (PROCESS_BYTES + working + stored))
    return Footprint(
        host_bytes=job.actors * (PROCESS_BYTES + weight_bytes(model, job) + max(grams, stored)),
        accelerator_bytes=job.actors_per_device * (CONTEXT_BYTES + working),
    )


def _compute_bytes(job: JobSize) -> int:
    """Return the bytes of a number where gradients are taken.

    Calibration and training of float16 are in float32.
    """
    return 4 if job.dtype == "float16" else ITEM_BYTES[job.dtype]


def _propagating(model: ModelSize, job: JobSize) -> Footprint:
    """Return the footprint of propagation by one worker.

    It holds the model, its factors, all flows, a batch, float64 moments of one input, and factors of one matrix.
    There are up to five D×D moments at a time. On a host the old factors are mapped into memory beside the new ones.
    """
    if not job.propagated:
        return Footprint(host_bytes=0)
    load = job.loads["propagation"]
    weights, factors = weight_bytes(model, job), factor_bytes(model.matrices, job.dtype)
    states, read = _flows(model, job, load, 1 + job.propagated)
    regression = max(8 * (5 * m.in_features**2 + 3 * factor_numbers([m])) for m in model.matrices)
    batch = _batch(model, job, load, ITEM_BYTES[job.dtype])
    kept = _on_one(weights + factors * (2 if job.device == "cpu" else 1), model, job)
    return _placed(job, weights, read, kept + states + regression, batch)


def _training(model: ModelSize, job: JobSize) -> Footprint:
    """Return the footprint of training factors by one worker.

    It holds the model, its factors, float32 copies of trained factors with gradients and moments, and a batch.
    """
    if not job.train_epochs:
        return Footprint(host_bytes=0)
    compute = _compute_bytes(job)
    dense = model.total_params * compute
    factors = factor_numbers(model.matrices) * (compute + TRAINED_BYTES)
    batch = _calibration_batch(model, job, job.loads["refinement"], "task", compute)
    kept = _on_one(dense, model, job) + _on_one(factors, model, job)
    return _placed(job, weight_bytes(model, job), 0, kept, batch)


def _placed(job: JobSize, read_in: int, on_host: int, on_device: int, batch: int) -> Footprint:
    """Return the footprint of one process.

    `read_in` passes through the host. `on_device` and `batch` are on the job's device.
    """
    if job.device == "cpu":
        return Footprint(host_bytes=PROCESS_BYTES + on_host + on_device + HEAP * batch)
    return Footprint(
        host_bytes=PROCESS_BYTES + read_in + on_host, accelerator_bytes=CONTEXT_BYTES + on_device + batch
    )


def spilled_bytes(model: ModelSize, job: JobSize) -> int:
    """Return the largest size of sums on the disk during calibration.

    These are the old and the new sum, and shards that wait.
    """
    shards = shards_of(job, job.loads["calibration"])
    entries = 1 if shards == 1 else 2 + min(shards - 1, SPILLED_PER_WORKER * job.actors)
    return entries * _largest_grams(model, job)


def timing(model: ModelSize, job: JobSize) -> Footprint:
    """Return the footprint of timing by one worker.

    It holds the model, a batch, and layers in place of its own. These are first of one matrix of each shape, at ranks
    spread evenly. Then they are of all matrices: one with half of its numbers, and one with at most as many as it
    has. The first layers are not freed before the others exist.
    """
    of_shape = {(m.out_features, m.in_features): m.dense_params for m in model.matrices}
    numbers = (MOST_RANKS + 3) * sum(of_shape.values()) + 3 * sum(m.dense_params for m in model.matrices)
    layers, weights = numbers // 2 * ITEM_BYTES[job.dtype], weight_bytes(model, job)
    batch = _batch(model, job, job.loads["latency"], ITEM_BYTES[job.dtype])
    return _placed(job, weights, 0, _on_one(weights + layers, model, job), batch)


def scoring(model: ModelSize, job: JobSize, load: Load) -> Footprint:
    """Return the footprint of scoring.

    Each actor holds the model and a batch. On a host all share one memory map of the factors; a GPU gets copies.
    """
    weights, factors = weight_bytes(model, job), factor_bytes(model.matrices, job.dtype)
    batch = _batch(model, job, load, ITEM_BYTES[job.dtype])
    if job.device == "cpu":
        return Footprint(host_bytes=job.actors * (PROCESS_BYTES + weights + HEAP * batch) + factors)
    return Footprint(
        host_bytes=job.actors * (PROCESS_BYTES + weights) + factors,
        accelerator_bytes=job.actors_per_device
        * (CONTEXT_BYTES + _on_one(weights + factors, model, job) + batch),
    )


def measuring_slopes(model: ModelSize, job: JobSize, load: Load) -> Footprint:
    """Return the footprint of scoring and a batch with its backward pass."""
    batch = _calibration_batch(model, job, load, "task", ITEM_BYTES[job.dtype])
    base = scoring(model, job, load)
    if job.device == "cpu":
        return Footprint(host_bytes=base.host_bytes + job.actors * HEAP * batch)
    return Footprint(
        host_bytes=base.host_bytes, accelerator_bytes=base.accelerator_bytes + job.actors_per_device * batch
    )


def refitting(model: ModelSize, job: JobSize) -> Footprint:
    """Return the footprint of refitting on top of scoring.

    It holds the hidden states of both flows for all examples, the inputs of one block's matrices, and the new left
    factors. The least squares of one matrix needs float64 copies: its weight, five times its left factor, the
    products of its inputs with its components, and those of its components.
    """
    load = job.loads["refit"]
    base = scoring(model, job, load)
    if not load.tokens:
        return base
    states, read = _flows(model, job, load, 2)
    ranked = [(m, m.largest_rank) for m in model.propagated]
    fitted = sum(rank * m.out_features for m, rank in ranked) * ITEM_BYTES[job.dtype]
    solving = [
        m.dense_params + rank * (5 * m.out_features + 2 * m.in_features + 4 * rank) for m, rank in ranked
    ]
    working = states + 8 * max(solving, default=0)
    if job.device == "cpu":
        return Footprint(host_bytes=base.host_bytes + job.actors * (working + fitted + read))
    return Footprint(
        host_bytes=base.host_bytes + job.actors * (fitted + read),
        accelerator_bytes=base.accelerator_bytes
        + job.actors_per_device * (working + _on_one(fitted, model, job)),
    )


def _flows(model: ModelSize, job: JobSize, load: Load, count: int) -> tuple[int, int]:
    """Return the bytes of flows where they run, and on the host.

    The first are the hidden states of all examples, and some batches of the widest matrix's inputs in two flows, in
    the model's dtype and in float32. The second are the inputs of one block's matrices in one flow.
    """
    read, widest = [0] * model.layers, 0
    for matrix in model.propagated:
        read[matrix.layer] += matrix.in_features
        widest = max(widest, matrix.in_features)
    item, rows = ITEM_BYTES[job.dtype], min(round(load.real_tokens), ROWS)
    states = round(load.tokens) * count * model.hidden * item
    return states + rows * widest * 2 * (item + 4), round(load.real_tokens) * max(read) * item


def exporting(model: ModelSize, job: JobSize) -> Footprint:
    """Return the footprint of an export: the dense model and its replacements.

    The factors that replace matrices take at most the model's size again.
    """
    return Footprint(host_bytes=PROCESS_BYTES + 2 * weight_bytes(model, job))


def verifying(model: ModelSize, job: JobSize) -> Footprint:
    """Return the footprint of the exported and the dense model side by side."""
    weights = weight_bytes(model, job)
    batch = _batch(model, job, job.loads["verify"], ITEM_BYTES[job.dtype])
    working = _on_one(2 * weights, model, job) + batch
    if job.device == "cpu":
        return Footprint(host_bytes=PROCESS_BYTES + working + (HEAP - 1) * batch)
    return Footprint(host_bytes=PROCESS_BYTES + weights, accelerator_bytes=CONTEXT_BYTES + working)


def _on_one(size: int, model: ModelSize, job: JobSize) -> int:
    """Return the part on an actor's fullest device of what is spread by blocks."""
    return size * math.ceil(model.layers / job.devices_per_actor) // model.layers


def _chunks(model: ModelSize) -> list[tuple[MatrixShape, ...]]:
    return [model.matrices[start : start + CHUNK] for start in range(0, len(model.matrices), CHUNK)]


def _gram_bytes(matrices: Sequence[MatrixShape], job: JobSize) -> int:
    kept = grams_per_matrix(job.method) * BYTES_PER_ENTRY
    return sum(kept * gram_numbers(gram_width(matrix, job.method)) for matrix in matrices)


def _largest_grams(model: ModelSize, job: JobSize) -> int:
    groups = gram_passes(model, job.method, job.gram_bytes)
    return max((_gram_bytes(group, job) for group in groups), default=0)


def _calibration_batch(model: ModelSize, job: JobSize, load: Load, method: Method, item: int) -> int:
    """Return the bytes of a batch with autograd.

    These are every input and output of a linear map once, and the logits with their gradients. For one layer of a GPT
    the first amounts to 16·H numbers a token; arXiv 2205.05198, section 4.1, counts 17·H. Where attention's weights
    are written out, see `model.attention`, they are kept in float32 and in the working dtype.
    """
    if method == "weight":
        return 0
    if method != "task":
        return _batch(model, job, load, item)
    entries = round(item * model.activations)
    length = load.squares / max(load.tokens, 1)
    if job.device == "cpu" and job.dtype == "bfloat16" and length <= SHORT:
        entries += round((item + 4) * length * model.heads * model.layers)
    return _on_one(load.largest_tokens * entries, model, job) + _logits(model, load, LOGIT_BYTES)


def _batch(model: ModelSize, job: JobSize, load: Load, item: int) -> int:
    """Return the bytes of a batch without autograd.

    These are the residual stream, both sides of the widest matrix twice, the cache, and the logits.
    """
    widest = max(m.out_features + m.in_features for m in model.matrices)
    running = load.largest_tokens * (model.hidden + 2 * widest) * item
    cache = _on_one(load.largest_cached * model.layers * model.cached * item, model, job)
    return running + cache + _logits(model, load, item + 8)


def _logits(model: ModelSize, load: Load, entry: int) -> int:
    """Return the bytes of the logits at the positions read, `entry` bytes each.

    They are in the working dtype and in float32, with results computed from them.
    """
    return load.largest_reads * model.vocabulary * entry


def _workspace(model: ModelSize, job: JobSize) -> int:
    """Return the float64 bytes of the matrices decomposed at once.

    Seven are K×K: two Grams, root, square, stack of squares, eigenvectors, scratch. Three are of the matrix's own
    size: the matrix and its factors.
    """
    return max(
        sum(8 * (7 * gram_width(m, job.method) ** 2 + 3 * m.dense_params) for m in alike)
        for chunk in _chunks(model)
        for alike in decomposed_at_once(chunk, job.method)
    )
