"""Operation counts of a job: FLOPs, bytes moved, file bytes and their time.

Pure arithmetic, from shapes and token counts. Counts are upper bounds where the work depends on
results: every candidate is assumed to be as dear as the dense model. All experts of a mixture are assumed to get
equally
many tokens.

Legend: P parameters inside the blocks that a token runs through, O×D a matrix, K = min(O, D), R its largest rank that
is kept, T tokens with padding, L padded length of a batch, N positions that go through the output head, V vocabulary,
H hidden width, A attention width (heads × head size).

    forward     2·P·T + 2·V·H·N + 4·A·L²·rows·layers    a product takes 2 FLOPs per weight and token
    backward    2·P·T + 2·V·H·N + 8·A·L²·rows·layers    weights get no gradient, both sides of attention do
    a Gram      about K·(K + block) per real token      half of 2·K², by panels of columns
    training    2·forward + backward + 2·P·T            the dense model forwards; a candidate both ways
    activations (ΣO + ΣD)·T numbers moved               again twice backwards; and all weights, once a batch
    factoring   14·K³ + 3·K²·R + 2·K·R·max(O, D)        eigenvectors 9·K³; Cholesky, congruence; solve; both factors
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

from ranksieve.workers.cost.footprint import factor_bytes, weight_bytes
from ranksieve.workers.cost.latency_measurement import MOST_RANKS, ROUNDS, VERSIONS
from ranksieve.workers.cost.shapes import (
    JobSize,
    Load,
    ModelSize,
    gram_passes,
    grams_per_matrix,
    shards_of,
)
from ranksieve.workers.cost.speed import EIGH_FLOPS, Rates
from ranksieve.workers.factors.decomposition import Method
from ranksieve.workers.factors.grams import BYTES_PER_ENTRY, gram_numbers
from ranksieve.workers.factors.passes import gram_width
from ranksieve.workers.model.filesize import ITEM_BYTES
from ranksieve.workers.model.matrices import factor_numbers

START_S = (2.0, 10.0)
"""Range of the time of a process's start, in seconds.

Imports take most of it.
"""

FILE_BYTES_PER_SECOND = (2e9, 2e8)
"""Range of the rate of files read, hashed and written.

It goes from a fast local disk to a slow shared one.
"""

GGUF_PARAMS_PER_SECOND = (3e7, 5e6)
"""Range of the rate of de-quantization by transformers.

It is numpy on one thread.
"""

OPTIMIZER_TRAFFIC = 32
"""Bytes per number and step of AdamW.

Number, gradient and two moments in float32 are read and written.
"""

CANDIDATE_PASSES = 3
"""Forward passes of a candidate in propagation.

They go to the end of each block, and through parts of it.
"""

JUDGING_PASSES = 2
"""Forward passes of scoring two models, and the dense one twice.

They run on at most half as many records.
"""

GRAM_TRAFFIC_BYTES = 24
"""Bytes moved per entry, Gram and batch.

The float32 product is written and read, the float64 sum read and written.
"""

TIMING_PASSES = VERSIONS * (ROUNDS + 1)
"""Forward passes of measuring latencies."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """Amounts of work that take time.

    FLOPs are in the working dtype, float32, float64 and inside eigendecompositions.
    """

    flops: float = 0
    float32_flops: float = 0
    float64_flops: float = 0
    eigh_flops: float = 0
    memory_bytes: float = 0
    file_bytes: float = 0
    gguf_params: float = 0
    starts: float = 0

    def __add__(self, other: "Work") -> "Work":
        return Work(
            **{field.name: getattr(self, field.name) + getattr(other, field.name) for field in fields(self)}
        )

    @property
    def all_flops(self) -> float:
        return self.flops + self.float32_flops + self.float64_flops + self.eigh_flops

    def seconds(self, dtype: str, rates: Rates, devices: float) -> tuple[float, float]:
        """Return the range of the time of computing and moving, one after the other.

        Side by side, they would take at least half of that.
        """
        busy = (
            self.flops / rates.flops[dtype]
            + self.float32_flops / rates.flops["float32"]
            + self.float64_flops / rates.flops["float64"]
            + self.eigh_flops / rates.decomposition_flops
            + self.memory_bytes / rates.memory_bytes
        ) / devices
        low, high = (
            busy / share + self.file_bytes / file_rate + self.gguf_params / gguf_rate + self.starts * start_s
            for share, file_rate, gguf_rate, start_s in zip(
                reversed(rates.utilisation),
                FILE_BYTES_PER_SECOND,
                GGUF_PARAMS_PER_SECOND,
                START_S,
                strict=True,
            )
        )
        return low, high


Steps = Sequence[tuple[Work, float]]
"""Works that are done one after the other, and the number of devices of each."""


def preparing(model: ModelSize, job: JobSize) -> Steps:
    """Return the work of loading the model, gathering Grams and factoring.

    It is a forward (and backward) pass per group of matrices, and the Grams and factors of each matrix once. Midway
    calibration does the same on the way before, from fewer examples and in float32. Loading, propagation and training
    are done by one worker, propagation with the threads of one.
    """
    loads, weights = job.loads, weight_bytes(model, job)
    rounds = [(loads["calibration"], job.midway_share or 0.0, True)]
    if job.midway_share is not None:
        rounds.insert(0, (loads["way"], 0.0, False))
    loading = Work(starts=1, file_bytes=3 * weights, gguf_params=model.total_params if job.gguf else 0)
    writing = Work(file_bytes=3 * factor_bytes(model.matrices, job.dtype))
    steps: list[tuple[Work, float]] = []
    for load, low_rank, exact in rounds:
        workers = min(job.devices, shards_of(job, load))
        gathering = _gathering(model, job, load, low_rank)
        factoring = _factoring(model, job, exact=exact) + writing
        steps += [(loading, 1), (gathering, workers), (factoring, job.devices)]
    if job.propagated:
        steps.append((_propagating(model, job) + writing, 1 / job.actors if job.device == "cpu" else 1))
    return [*steps, (_refining(model, job, loads["refinement"].times(job.train_epochs)), 1)]


def flowing_passes(job: JobSize) -> int:
    """Return the number of forward passes of propagation.

    They are of the dense model, of each candidate, and of the check whether it has helped.
    """
    return 1 + CANDIDATE_PASSES * job.propagated + JUDGING_PASSES if job.propagated else 0


def _propagating(model: ModelSize, job: JobSize) -> Work:
    """Return the work of propagation: both flows, moments and regressions.

    Every matrix is counted as if no other read the same inputs. A candidate adds two Grams and a square product of
    each. The regression takes D³/3 for a Cholesky factorisation, 2·R·D² for triangular solves, 4·R·D² + 4·R²·D +
    2·R²·O for products, and eigenvectors 9·R³.
    """
    load = job.loads["propagation"]
    numbers = flops = eigh_flops = 0.0
    for matrix in model.propagated:
        width, rank = matrix.in_features, matrix.largest_rank
        numbers += 2 * gram_numbers(width) + width**2
        flops += width**3 / 3 + 6 * rank * width**2 + 4 * rank**2 * width
        flops += 2 * rank**2 * matrix.out_features
        eigh_flops += EIGH_FLOPS * rank**3
    products = 2 * job.propagated * load.real_tokens * numbers
    moments = Work(memory_bytes=job.propagated * load.batches * GRAM_TRAFFIC_BYTES * numbers)
    moments += Work(flops=products) if job.dtype == "bfloat16" else Work(float32_flops=products)
    regressing = Work(float64_flops=flops, eigh_flops=eigh_flops)
    passes = load.times(flowing_passes(job)) + job.loads["propagation_looks"]
    return _forward(model, job, passes) + moments + regressing


def _gathering(model: ModelSize, job: JobSize, load: Load, low_rank: float) -> Work:
    """Return the work of the passes over calibration examples.

    Sums of shards are written, hashed and read back. Midway, every matrix runs low-rank as well, both ways, with the
    share `low_rank` of its parameters.
    """
    weights = weight_bytes(model, job)
    streamed = load.times(len(gram_passes(model, job.method, job.gram_bytes)))
    running = _forward(model, job, streamed, backward=job.method == "task") + Work(
        flops=2 * 2 * low_rank * model.running_params * streamed.tokens,
        memory_bytes=2 * low_rank * streamed.batches * weights,
    )
    summed = sum(_kept(model, job.method)) * grams_per_matrix(job.method) * BYTES_PER_ENTRY
    spilling = Work(file_bytes=3 * shards_of(job, load) * summed)
    return running + _grams(model, job, load) + spilling


def timing(model: ModelSize, job: JobSize, once: Load) -> Work:
    """Return the work of timing the whole model and one matrix of each shape.

    The matrix is timed at all its ranks, each assumed to be as dear as the dense one.
    """
    shapes = {(m.out_features, m.in_features): m.dense_params for m in model.matrices}
    products = sum(shapes.values()) * (MOST_RANKS + 2) * (ROUNDS + 1)
    alone = Work(starts=1, flops=2 * products * (once.tokens + once.decoded))
    return scoring(model, job, once.times(TIMING_PASSES)) + alone


def _refining(model: ModelSize, job: JobSize, load: Load) -> Work:
    """Return the work of training factors.

    The dense model runs forwards, a candidate both ways, with its factors' gradients and AdamW over all trained
    numbers.
    """
    gradients = Work(
        flops=2 * model.running_params * load.tokens,
        memory_bytes=load.batches * OPTIMIZER_TRAFFIC * factor_numbers(model.matrices),
    )
    return measuring_slopes(model, job, load) + gradients


def measuring_slopes(model: ModelSize, job: JobSize, load: Load) -> Work:
    """Return the work of the dense model forwards and a candidate both ways."""
    return _forward(model, job, load) + _forward(model, job, load, backward=True)


def _forward(model: ModelSize, job: JobSize, load: Load, *, backward: bool = False) -> Work:
    """Return the work of a forward pass, and of a backward pass for activations.

    Attention is two products of 2·A·L² FLOPs per row and layer. Every batch reads the weights from memory. What a
    matrix reads and writes is moved once more by the norms and gates between matrices. Backwards, attention and those
    cost twice as much.
    """
    linear = 2 * model.running_params * load.tokens + 2 * model.vocabulary * model.hidden * load.reads
    attention = 4 * model.attention * load.squares * model.layers
    numbers = model.activations
    weights, activations = (
        load.batches * weight_bytes(model, job),
        load.tokens * numbers * ITEM_BYTES[job.dtype],
    )
    if backward:
        linear, attention, weights, activations = 2 * linear, 3 * attention, 2 * weights, 3 * activations
    return Work(flops=linear + attention, memory_bytes=weights + activations)


def scoring(model: ModelSize, job: JobSize, load: Load) -> Work:
    """Return the work of forward passes over the rows, and of generated answers.

    Every generated token takes one small pass that reads all weights.
    """
    per_token = 2 * (model.running_params + model.vocabulary * model.hidden)
    decoding = Work(flops=per_token * load.decoded, memory_bytes=load.steps * weight_bytes(model, job))
    return _forward(model, job, load) + decoding


def _grams(model: ModelSize, job: JobSize, load: Load) -> Work:
    """Return the work of the Grams' products and sums.

    Products are in bfloat16 where that is the dtype, else in float32. Sums are in float64. Both go by panels of a
    triangle.
    """
    numbers = _kept(model, job.method)
    count, kept = grams_per_matrix(job.method), sum(numbers)
    seen = sum(model.seen(matrix) * number for matrix, number in zip(model.matrices, numbers, strict=True))
    flops = count * load.real_tokens * 2 * seen
    work = Work(memory_bytes=count * load.batches * GRAM_TRAFFIC_BYTES * kept)
    return work + (Work(flops=flops) if job.dtype == "bfloat16" else Work(float32_flops=flops))


def _kept(model: ModelSize, method: Method) -> list[int]:
    """Return the count of numbers that a Gram of each matrix keeps."""
    return [gram_numbers(gram_width(matrix, method)) for matrix in model.matrices]


def _factoring(model: ModelSize, job: JobSize, *, exact: bool) -> Work:
    """Return the work of factoring all matrices by `task` at its dearest side.

    Other methods need less. Products are in float64 if `exact`, else in float32. Eigenvectors take 9·K³, Cholesky
    K³/3, the congruence 2·2·K³, a triangular solve K²·R, the other factor 2·K²·R and then 2·K·R·max(O, D).
    """
    eigh_flops = flops = 0
    for matrix in model.matrices:
        width, rank = gram_width(matrix, job.method), matrix.largest_rank
        wide = max(matrix.out_features, matrix.in_features)
        eigh_flops += EIGH_FLOPS * width**3
        flops += 5 * width**3 + 3 * width**2 * rank + 2 * width * rank * wide
    products = Work(float64_flops=flops) if exact else Work(float32_flops=flops)
    return products + Work(eigh_flops=eigh_flops)
