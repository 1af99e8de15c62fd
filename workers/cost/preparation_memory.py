"""Peak memory of preparation and bytes of the sums that it writes, by formula.

The Grams that are gathered at once may all belong to one GPU's blocks.

Legend: K width of a Gram.
"""

from collections.abc import Sequence

from ranksieve.search.space.matrix import MatrixShape
from ranksieve.workers.cost.footprint import (
    HEAP,
    PROCESS_BYTES,
    Footprint,
    calibration_batch_bytes,
    factor_bytes,
    on_fullest,
    placed,
    weight_bytes,
)
from ranksieve.workers.cost.shapes import JobSize, ModelSize, shards_of
from ranksieve.workers.factors.grams import BYTES_PER_ENTRY, gram_numbers
from ranksieve.workers.factors.group import CHUNK
from ranksieve.workers.factors.passes import gram_width, passes
from ranksieve.workers.factors.shards import SPILLED_PER_WORKER
from ranksieve.workers.factors.training import TRAINED_BYTES
from ranksieve.workers.machine.devices import CONTEXT_BYTES
from ranksieve.workers.model.filesize import ITEM_BYTES
from ranksieve.workers.model.matrices import factor_numbers


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
        "tuning": _tuning(model, job),
        "calibration": _calibrating(model, job),
        "training": _training(model, job),
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
    smaller model as well. It factors with the model, a chunk's Grams and factors, and float64 copies of the matrix
    that is decomposed. Sums that it writes pass through the host.
    """
    compute = _compute_bytes(job)
    grams = _largest_grams(model, job)
    stored = max(factor_bytes(chunk, job.dtype) for chunk in _chunks(model))
    chunk = max(_gram_bytes(chunk) for chunk in _chunks(model))
    heap = HEAP if job.device == "cpu" else 1
    working = (
        on_fullest(model.total_params * compute, model, job)
        + on_fullest(int(model.block_params * compute * (job.midway_share or 0)), model, job)
        + max(
            grams + heap * calibration_batch_bytes(model, job, job.loads["calibration"], compute),
            min(grams, chunk) + _workspace(model),
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


def _tuning(model: ModelSize, job: JobSize) -> Footprint:
    """Return the footprint of tuning the blocks that stay by one worker.

    It holds the float32 model with gradients and moments, and a batch. The answers of the given model come first.

    Args:
        model: The model as it is after the cut.
        job: The job.
    """
    if job.tuned_depth is None:
        return Footprint(host_bytes=0)
    numbers = TRAINED_BYTES * model.block_params + 4 * (model.total_params - model.block_params)
    batch = calibration_batch_bytes(model, job, job.loads["training"], 4)
    return placed(job, weight_bytes(model, job), on_fullest(numbers, model, job), batch)


def _training(model: ModelSize, job: JobSize) -> Footprint:
    """Return the footprint of training factors by one worker.

    It holds the model, its factors, float32 copies of trained factors with gradients and moments, and a batch.
    """
    if not job.train_epochs:
        return Footprint(host_bytes=0)
    compute = _compute_bytes(job)
    dense = model.total_params * compute
    factors = factor_numbers(model.matrices) * (compute + TRAINED_BYTES)
    batch = calibration_batch_bytes(model, job, job.loads["training"], compute)
    kept = on_fullest(dense, model, job) + on_fullest(factors, model, job)
    return placed(job, weight_bytes(model, job), kept, batch)


def spilled_bytes(model: ModelSize, job: JobSize) -> int:
    """Return the largest size of sums on the disk during calibration.

    These are the old and the new sum, and shards that wait.
    """
    shards = shards_of(job, job.loads["calibration"])
    entries = 1 if shards == 1 else 2 + min(shards - 1, SPILLED_PER_WORKER * job.actors)
    return entries * _largest_grams(model, job)


def _chunks(model: ModelSize) -> list[tuple[MatrixShape, ...]]:
    return [model.matrices[start : start + CHUNK] for start in range(0, len(model.matrices), CHUNK)]


def _gram_bytes(matrices: Sequence[MatrixShape]) -> int:
    return sum(2 * BYTES_PER_ENTRY * gram_numbers(gram_width(matrix)) for matrix in matrices)


def _largest_grams(model: ModelSize, job: JobSize) -> int:
    return max(map(_gram_bytes, passes(model.matrices, job.gram_bytes)))


def _workspace(model: ModelSize) -> int:
    """Return the float64 bytes of the matrix that is decomposed.

    Six are K×K: two Grams, root, square, eigenvectors, scratch. Three are of the matrix's own size: the matrix and its
    factors.
    """
    return max(8 * (6 * gram_width(m) ** 2 + 3 * m.dense_params) for m in model.matrices)
