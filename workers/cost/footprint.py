"""Bytes of weights, factors and batches, and where a process holds them.

Where a model is spread over several GPUs, so are its weights, factors and activations, block by block. The logits are
on the first GPU. `workers.cost.preparation_memory` and `workers.cost.memory` add these up by phase. Memory of Ray, the
server and the page cache is not included.

Legend: H hidden width.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ranksieve.search.space.matrix import MatrixShape
from ranksieve.workers.cost.shapes import JobSize, Load, ModelSize
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


def placed(job: JobSize, read_in: int, on_device: int, batch: int) -> Footprint:
    """Return the footprint of one process.

    `read_in` passes through the host. `on_device` and `batch` are on the job's device.
    """
    if job.device == "cpu":
        return Footprint(host_bytes=PROCESS_BYTES + on_device + HEAP * batch)
    return Footprint(host_bytes=PROCESS_BYTES + read_in, accelerator_bytes=CONTEXT_BYTES + on_device + batch)


def on_fullest(size: int, model: ModelSize, job: JobSize) -> int:
    """Return the part on an actor's fullest device of what is spread by blocks."""
    return size * math.ceil(model.layers / job.devices_per_actor) // model.layers


def calibration_batch_bytes(model: ModelSize, job: JobSize, load: Load, item: int) -> int:
    """Return the bytes of a batch with autograd.

    These are every input and output of a linear map once, and the logits with their gradients. For one layer of a GPT
    the first amounts to 16·H numbers a token; arXiv 2205.05198, section 4.1, counts 17·H. Where attention's weights
    are written out, see `model.attention`, they are kept in float32 and in the working dtype.
    """
    entries = round(item * model.activations)
    length = load.squares / max(load.tokens, 1)
    if job.device == "cpu" and job.dtype == "bfloat16" and length <= SHORT:
        entries += round((item + 4) * length * model.heads * model.layers)
    return on_fullest(load.largest_tokens * entries, model, job) + _logits(model, load, LOGIT_BYTES)


def batch_bytes(model: ModelSize, job: JobSize, load: Load, item: int) -> int:
    """Return the bytes of a batch without autograd.

    These are the residual stream, both sides of the widest matrix twice, the cache, and the logits.
    """
    widest = max(m.out_features + m.in_features for m in model.matrices)
    running = load.largest_tokens * (model.hidden + 2 * widest) * item
    cache = on_fullest(load.largest_cached * model.layers * model.cached * item, model, job)
    return running + cache + _logits(model, load, item + 8)


def _logits(model: ModelSize, load: Load, entry: int) -> int:
    """Return the bytes of the logits at the positions read, `entry` bytes each.

    They are in the working dtype and in float32, with results computed from them.
    """
    return load.largest_reads * model.vocabulary * entry
