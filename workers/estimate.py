"""What a job will need - tokens, FLOPs, memory, disk, time - from shapes and token counts, before any work is done.

Pure arithmetic: nothing is loaded, run or timed here (`workers.rates` times). Counts are upper bounds where what a job
does depends on what it finds: every candidate is taken to be as dear as the dense model, every search to use up its
scorings, the dense model to run in every round of reweighing and descent, though it answers a choice once; so all these
may end before the low end of their range, and the test, too. But the low ends of refit and confirm are of the fewest
finalists that may have to be looked at. Of a mixture, every expert is taken to get as many tokens as the others.

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

from workers.calibration import gram_width
from workers.filesize import ITEM_BYTES
from workers.footprint import (
    Footprint,
    exporting,
    factor_bytes,
    factor_numbers,
    preparing,
    reacting,
    refitting,
    scoring,
    spilled_bytes,
    timing,
    verifying,
    weight_bytes,
)
from workers.grams import BYTES_PER_ENTRY, gram_numbers
from workers.latency import MOST_RANKS, ROUNDS, VERSIONS
from workers.projections import Method
from workers.rates import EIGH_FLOPS, Rates
from workers.sizes import (
    JobSize,
    Load,
    ModelSize,
    gram_passes,
    grams_per_matrix,
    runs_dense,
    shards_of,
)

START_S = (2.0, 10.0)
"""Start of a process: imports, a few seconds each."""

FILE_BYTES_PER_SECOND = (2e9, 2e8)
"""Files read, hashed and written: from a fast local disk to a slow shared one."""

GGUF_PARAMS_PER_SECOND = (3e7, 5e6)
"""De-quantization by transformers, which is numpy on one thread."""

OPTIMIZER_TRAFFIC = 32
"""Bytes per number and step of AdamW: number, gradient and two moments in float32, read and written."""

CANDIDATE_PASSES = 3
"""Forward passes that a candidate takes in which errors are propagated: to the end of each block, and parts of it."""

JUDGING_PASSES = 2
"""What scoring two models and the dense one twice comes to, on half as many records at most."""

REFIT_PASSES = 5
"""Forward passes that a refit costs about, float32 products and all."""

GRAM_TRAFFIC_BYTES = 24
"""Per entry, Gram and batch: the float32 product written and read, the float64 sum read and written."""


PASSES = VERSIONS * (ROUNDS + 1)
"""Forward passes that measuring latencies takes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PhaseEstimate:
    """What one phase needs; memory is the peak, over all processes of the host and on the fullest accelerator."""

    phase: str
    tokens: int
    flops: int
    host_bytes: int
    accelerator_bytes: int
    disk_bytes: int
    seconds_low: float
    seconds_high: float


@dataclass(frozen=True, kw_only=True, slots=True)
class _Work:
    """Amounts that take time. FLOPs in the working dtype, float32, float64 and inside eigendecompositions."""

    flops: float = 0
    float32_flops: float = 0
    float64_flops: float = 0
    eigh_flops: float = 0
    memory_bytes: float = 0
    file_bytes: float = 0
    gguf_params: float = 0
    starts: float = 0

    def __add__(self, other: "_Work") -> "_Work":
        return _Work(
            **{field.name: getattr(self, field.name) + getattr(other, field.name) for field in fields(self)}
        )

    @property
    def all_flops(self) -> float:
        return self.flops + self.float32_flops + self.float64_flops + self.eigh_flops

    def seconds(self, dtype: str, rates: Rates, devices: float) -> tuple[float, float]:
        """Computing and moving, one after the other: at most twice what they take side by side."""
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


_Steps = Sequence[tuple[_Work, float]]
"""Work that is done one after the other, and on how many devices each of it is."""


def estimate(model: ModelSize, job: JobSize, rates: Rates) -> tuple[PhaseEstimate, ...]:
    """What every phase of a job needs, in the order they run.

    Args:
        model: The dense model.
        job: What is done with it.
        rates: Of one device; of a processor, of all the job's threads.
    """
    loads, weights = job.loads, weight_bytes(model, job)
    factors = factor_bytes(model.matrices, job.storage, job.dtype)
    copying = _Work(starts=1, file_bytes=3 * weights)  # read, write, hash; or read twice and look for more

    def seconds(work: _Steps) -> tuple[float, float]:
        ranges = [part.seconds(job.dtype, rates, devices) for part, devices in work]
        return sum(low for low, _ in ranges), sum(high for _, high in ranges)

    def phase(
        name: str, load: Load, work: _Steps, peak: Footprint, disk: int = 0, least: _Steps | None = None
    ) -> PhaseEstimate:
        return PhaseEstimate(
            phase=name,
            tokens=round(load.tokens + load.decoded),
            flops=round(sum(part.all_flops for part, _ in work)),
            host_bytes=peak.host_bytes,
            accelerator_bytes=peak.accelerator_bytes,
            disk_bytes=disk,
            seconds_low=round(seconds(least or work)[0], 1),
            seconds_high=round(seconds(work)[1], 1),
        )

    def scored(name: str, load: Load, start: _Work, least: Load | None = None) -> PhaseEstimate:
        work, fewer = ([(_scoring(model, job, one) + start, job.devices)] for one in (load, least or load))
        return phase(name, load, work, scoring(model, job, load), least=fewer)

    def reacted(name: str) -> PhaseEstimate:
        load, looks = loads[name], loads[f"{name}_looks"]
        work = _reacting(model, job, load) + _scoring(model, job, looks)
        return phase(name, load.times(2) + looks, [(work, job.devices)], reacting(model, job, load))

    calibration, none = loads["calibration"], _Work()
    passes, midway = len(gram_passes(model, job.method, job.gram_bytes)), job.midway_share is not None
    streamed = (calibration + loads["way"] if midway else calibration).times(passes)
    streamed += calibration.times(passes * runs_dense(job))
    times = job.propagation_rounds
    coarse = times if times > 1 else 0  # so often rounds lead to a model, and a search begins after them
    streamed += loads["propagation"].times(times * _flowing_passes(job)) + loads["propagation_looks"]
    streamed += loads["refinement"].times(times * job.refine_epochs)
    entries = 1 + midway + times * ((job.propagated > 0) + (job.refine_epochs > 0))  # factors of every kind
    refit_one = loads["refit"].times(REFIT_PASSES)
    if refit_one.tokens:
        refit_one += loads["search"].times(2)  # as it was, and refit
    refit = refit_one.times(job.finalists)
    at_once = min(max(job.fewest_finalists, job.actors), job.finalists)  # with one those that fill the actors
    timed = []
    if "latency" in loads:
        once = loads["latency"]
        timed = [phase("latency", once.times(PASSES), [(_timing(model, job, once), 1)], timing(model, job))]
    search = loads["search"].times(job.search_passes)
    return (
        phase(
            "prepare",
            streamed,
            _preparing(model, job),
            preparing(model, job),
            disk=weights + entries * factors + spilled_bytes(model, job),
        ),
        *timed,
        scored(
            "dense",
            loads["search"].times(1 + 2 * coarse) + loads["confirm"],
            _Work(starts=1 + coarse, file_bytes=(1 + coarse) * job.actors * (weights + factors)),
        ),
        reacted("reweigh"),
        reacted("descend"),
        scored("search", search, none),
        phase(
            "refit",
            refit,
            [(_scoring(model, job, refit), job.devices)],
            refitting(model, job),
            least=[(_scoring(model, job, refit_one.times(at_once)), job.devices)],
        ),
        scored(
            "confirm",
            loads["confirm"].times(job.finalists),
            none,
            loads["confirm"].times(job.fewest_finalists),
        ),
        scored("test", loads["test"].times(2), none),
        phase("export", Load(), [(copying, 1)], exporting(model, job), disk=weights),
        phase(
            "verify",
            loads["verify"],
            [(_scoring(model, job, loads["verify"]) + copying, 1)],
            verifying(model, job),
        ),
    )


def _preparing(model: ModelSize, job: JobSize) -> _Steps:
    """Loading, then forward (and backward) once per group of matrices, the Grams and factors of each matrix once.

    Where it is done midway, the same for the way there before, from fewer examples and in float32. Loading, propagation
    and training are up to one worker, propagation with the threads of one.
    """
    loads, weights = job.loads, weight_bytes(model, job)
    rounds = [(loads["calibration"], job.midway_share or 0.0, True)]
    if job.midway_share is not None:
        rounds.insert(0, (loads["way"], 0.0, False))
    loading = _Work(starts=1, file_bytes=3 * weights, gguf_params=model.total_params if job.gguf else 0)
    writing = _Work(file_bytes=3 * factor_bytes(model.matrices, job.storage, job.dtype))
    steps: list[tuple[_Work, float]] = []
    for load, low_rank, exact in rounds:
        workers = min(job.devices, shards_of(job, load))
        gathering = _gathering(model, job, load, low_rank)
        factoring = _factoring(model, job, exact=exact) + writing
        steps += [(loading, 1), (gathering, workers), (factoring, job.devices)]
    again: list[tuple[_Work, float]] = []
    if job.propagated:
        again.append((_propagating(model, job) + writing, 1 / job.actors if job.device == "cpu" else 1))
    again.append((_refining(model, job, loads["refinement"].times(job.refine_epochs)), 1))
    return [*steps, *job.propagation_rounds * again]


def _flowing_passes(job: JobSize) -> int:
    """Passes of propagation: the dense model's, those of each candidate, and what tells whether it has helped."""
    return 1 + CANDIDATE_PASSES * job.propagated + JUDGING_PASSES if job.propagated else 0


def _propagating(model: ModelSize, job: JobSize) -> _Work:
    """Both flows, and of each matrix the moments of its inputs and a regression, as if none read what another reads.

    A candidate adds two Grams and a square product of each. The regression takes D³/3 for a Cholesky factorisation,
    2·R·D² for triangular solves, 4·R·D² + 4·R²·D + 2·R²·O for products, and eigenvectors 9·R³.
    """
    load = job.loads["propagation"]
    numbers = flops = eigh_flops = 0.0
    for matrix in model.propagated:
        width, rank = matrix.in_features, matrix.largest_rank(job.storage)
        numbers += 2 * gram_numbers(width) + width**2
        flops += width**3 / 3 + 6 * rank * width**2 + 4 * rank**2 * width
        flops += 2 * rank**2 * matrix.out_features
        eigh_flops += EIGH_FLOPS * rank**3
    products = 2 * job.propagated * load.real_tokens * numbers
    moments = _Work(memory_bytes=job.propagated * load.batches * GRAM_TRAFFIC_BYTES * numbers)
    moments += _Work(flops=products) if job.dtype == "bfloat16" else _Work(float32_flops=products)
    regressing = _Work(float64_flops=flops, eigh_flops=eigh_flops)
    passes = load.times(_flowing_passes(job)) + job.loads["propagation_looks"]
    return _forward(model, job, passes) + moments + regressing


def _gathering(model: ModelSize, job: JobSize, load: Load, low_rank: float) -> _Work:
    """The passes over some calibration examples; the shards' sums are written, hashed and read back.

    Midway every matrix runs low-rank as well, both ways, with this share of its parameters; and, if wanted, the dense
    model.
    """
    weights = weight_bytes(model, job)
    streamed = load.times(len(gram_passes(model, job.method, job.gram_bytes)))
    running = _forward(model, job, streamed, backward=job.method == "task") + _Work(
        flops=2 * 2 * low_rank * model.running_params * streamed.tokens,
        memory_bytes=2 * low_rank * streamed.batches * weights,
    )
    if low_rank and runs_dense(job):
        running += _forward(model, job, streamed)
    summed = sum(_kept(model, job.method)) * grams_per_matrix(job.method) * BYTES_PER_ENTRY
    spilling = _Work(file_bytes=3 * shards_of(job, load) * summed)
    return running + _grams(model, job, load) + spilling


def _timing(model: ModelSize, job: JobSize, once: Load) -> _Work:
    """The whole model, and one matrix of each shape at all its ranks, each taken to be as dear as the dense one."""
    shapes = {(m.out_features, m.in_features): m.dense_params for m in model.matrices}
    products = sum(shapes.values()) * (MOST_RANKS + 2) * (ROUNDS + 1)
    alone = _Work(starts=1, flops=2 * products * (once.tokens + once.decoded))
    return _scoring(model, job, once.times(PASSES)) + alone


def _refining(model: ModelSize, job: JobSize, load: Load) -> _Work:
    """The dense model forwards, a candidate both ways, its factors' gradients, AdamW over all that are trained."""
    gradients = _Work(
        flops=2 * model.running_params * load.tokens,
        memory_bytes=load.batches * OPTIMIZER_TRAFFIC * factor_numbers(model.matrices, job.storage),
    )
    return _reacting(model, job, load) + gradients


def _reacting(model: ModelSize, job: JobSize, load: Load) -> _Work:
    """The dense model forwards, a candidate both ways."""
    return _forward(model, job, load) + _forward(model, job, load, backward=True)


def _forward(model: ModelSize, job: JobSize, load: Load, *, backward: bool = False) -> _Work:
    """One forward pass, and a backward pass for the activations alone.

    Attention is two products of 2·A·L² FLOPs per row and layer. Every batch reads the weights from memory; what a
    matrix reads and writes is moved once more by what stands between matrices, norms and gates. Backwards attention and
    those cost twice as much.
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
    return _Work(flops=linear + attention, memory_bytes=weights + activations)


def _scoring(model: ModelSize, job: JobSize, load: Load) -> _Work:
    """Forward passes over the rows, and for generated answers one small pass per token, which reads all weights."""
    per_token = 2 * (model.running_params + model.vocabulary * model.hidden)
    decoding = _Work(flops=per_token * load.decoded, memory_bytes=load.steps * weight_bytes(model, job))
    return _forward(model, job, load) + decoding


def _grams(model: ModelSize, job: JobSize, load: Load) -> _Work:
    """Products in bfloat16 where that is the dtype, else in float32; sums in float64; both by panels of a triangle."""
    numbers = _kept(model, job.method)
    count, kept = grams_per_matrix(job.method), sum(numbers)
    seen = sum(model.seen(matrix) * number for matrix, number in zip(model.matrices, numbers, strict=True))
    flops = count * load.real_tokens * 2 * seen
    work = _Work(memory_bytes=count * load.batches * GRAM_TRAFFIC_BYTES * kept)
    return work + (_Work(flops=flops) if job.dtype == "bfloat16" else _Work(float32_flops=flops))


def _kept(model: ModelSize, method: Method) -> list[int]:
    """Numbers that are kept of a Gram of each matrix."""
    return [gram_numbers(gram_width(matrix, method)) for matrix in model.matrices]


def _factoring(model: ModelSize, job: JobSize, *, exact: bool) -> _Work:
    """`task` at its dearest side; the other methods need less. Products are in float64, or else in float32.

    Eigenvectors 9·K³, Cholesky K³/3, the congruence 2·2·K³, a triangular solve K²·R, the other factor 2·K²·R and then
    2·K·R·max(O, D).
    """
    eigh_flops = flops = 0
    for matrix in model.matrices:
        width, rank = gram_width(matrix, job.method), matrix.largest_rank(job.storage)
        wide = max(matrix.out_features, matrix.in_features)
        eigh_flops += EIGH_FLOPS * width**3
        flops += 5 * width**3 + 3 * width**2 * rank + 2 * width * rank * wide
    products = _Work(float64_flops=flops) if exact else _Work(float32_flops=flops)
    return products + _Work(eigh_flops=eigh_flops)
