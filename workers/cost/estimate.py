"""Estimate of a job's tokens, FLOPs, memory, disk and time.

It computes from shapes and token counts, before any work is done. Nothing is loaded, run or timed here
(`workers.cost.speed` times). The time of a phase is that of a forward pass over all examples it reads, times a constant
for what it does besides, plus factoring, file access and the start of processes. A phase that does all counted work
should take between half and twice that time. Many do less: every search is assumed to use up its scorings, every
finalist to be confirmed, and every candidate to be as expensive as the dense model.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from ranksieve.workers.cost import memory, preparation_memory
from ranksieve.workers.cost.footprint import Footprint, factor_bytes, weight_bytes
from ranksieve.workers.cost.latency_measurement import ROUNDS, VERSIONS
from ranksieve.workers.cost.shapes import JobSize, Load, ModelSize, shards_of
from ranksieve.workers.cost.speed import Rates
from ranksieve.workers.factors.passes import gram_width, passes

WITHIN = 2
"""Factor within which a phase's time is expected, up or down."""

BOTH_WAYS = 3
"""Forward passes that a pass forward and backward costs, with Grams or the dense model's answers."""

TRAINING = 5
"""Forward passes that a step of training costs: the dense model, a candidate both ways, AdamW."""

TIMED_PASSES = (VERSIONS + 1) * (ROUNDS + 1)
"""Passes of measuring latencies; single matrices take about as long as one more version of the model."""

STEP_TOKENS = 64
"""Tokens read in the time in which a step of generation reads all weights from memory."""

FACTORING_FLOPS = 14
"""FLOPs of factoring a matrix over K³: eigenvectors 9; Cholesky, congruence and solve 5."""

START_S = 5.0
"""Time of the start of processes; imports take most of it."""

FILE_BYTES_PER_SECOND = 2e8
"""Rate of files that are written, hashed and read back."""

GGUF_PARAMS_PER_SECOND = 1.2e7
"""Rate of de-quantization by transformers, which is numpy on one thread."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PhaseEstimate:
    """Needs of one phase.

    Memory is the peak, over all processes of the host and on the fullest accelerator.
    """

    phase: str
    tokens: int
    flops: int
    host_bytes: int
    accelerator_bytes: int
    disk_bytes: int
    seconds_low: float
    seconds_high: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """Examples that are read on a number of devices.

    `cost`: time and FLOPs, in forward passes over the examples.
    """

    load: Load
    devices: float
    cost: float = 1


def estimate(model: ModelSize, job: JobSize, rates: Rates) -> tuple[PhaseEstimate, ...]:
    """Return the needs of every phase of a job, in the order of the phases.

    Args:
        model: The dense model.
        job: The job.
        rates: Rates of one device; for a processor, of all the job's threads.
    """
    loads, weights = job.loads, weight_bytes(model, job)
    if job.tuned_depth is not None:
        model = model.first_blocks(job.tuned_depth)
    factors = factor_bytes(model.matrices, job.dtype)

    def phase(
        name: str,
        readings: Sequence[Reading],
        peak: Footprint,
        *,
        other_s: float = 0,
        factored: int = 0,
        disk: int = 0,
    ) -> PhaseEstimate:
        factoring = factored * FACTORING_FLOPS * sum(gram_width(m) ** 3 for m in model.matrices)
        seconds = other_s + factoring / rates.decomposition_flops / job.devices
        seconds += sum(
            one.cost * _forward_seconds(model, job, rates, one.load) / one.devices for one in readings
        )
        return PhaseEstimate(
            phase=name,
            tokens=round(sum(one.load.tokens + one.load.decoded for one in readings)),
            flops=round(sum(one.cost * forward_flops(model, one.load) for one in readings) + factoring),
            host_bytes=peak.host_bytes,
            accelerator_bytes=peak.accelerator_bytes,
            disk_bytes=disk,
            seconds_low=round(seconds / WITHIN, 1),
            seconds_high=round(seconds * WITHIN, 1),
        )

    def scored(name: str, load: Load, other_s: float = 0) -> PhaseEstimate:
        reading = Reading(load=load, devices=job.devices)
        return phase(name, [reading], memory.scoring(model, job, load), other_s=other_s)

    def measured() -> PhaseEstimate:
        reading = Reading(load=loads["latency"].times(TIMED_PASSES), devices=1)
        return phase("latency", [reading], memory.timing(model, job), other_s=START_S)

    entries = 1 + (job.midway_share is not None)
    kept = weights + (entries + (job.train_epochs > 0)) * factors  # one for each kind of factors
    kept += preparation_memory.spilled_bytes(model, job)
    dequantizing_s = model.total_params / GGUF_PARAMS_PER_SECOND if job.gguf else 0
    copying_s = START_S + weights / FILE_BYTES_PER_SECOND
    reading_s = START_S + job.actors * (weights + factors) / FILE_BYTES_PER_SECOND
    return (
        phase(
            "prepare",
            _preparing(model, job),
            preparation_memory.preparing(model, job),
            other_s=START_S + dequantizing_s + kept / FILE_BYTES_PER_SECOND,
            factored=entries,
            disk=kept,
        ),
        *([measured()] if "latency" in loads else []),
        scored("dense", loads["search"] + loads["confirm"], reading_s),
        scored("search", loads["search"].times(job.search_passes)),
        scored("confirm", loads["confirm"].times(job.finalists)),
        scored("test", loads["test"].times(2)),
        phase("export", [], memory.exporting(model, job), other_s=copying_s, disk=weights),
        phase(
            "verify",
            [Reading(load=loads["verify"], devices=1)],
            memory.verifying(model, job),
            other_s=copying_s,
        ),
    )


def forward_flops(model: ModelSize, load: Load) -> float:
    """Return the FLOPs of a forward pass.

    A product takes 2 per weight and token, attention 2·2·A·L² per row and layer.
    """
    linear = 2 * model.running_params * (load.tokens + load.decoded)
    head = 2 * model.vocabulary * model.hidden * (load.reads + load.decoded)
    return linear + head + 4 * model.attention * load.squares * model.layers


def _forward_seconds(model: ModelSize, job: JobSize, rates: Rates, load: Load) -> float:
    waiting = 2 * model.running_params * STEP_TOKENS * load.steps
    return (forward_flops(model, load) + waiting) / (rates.flops[job.dtype] * rates.utilisation)


def _preparing(model: ModelSize, job: JobSize) -> list[Reading]:
    """Return what is read to tune, to gather Grams and to train.

    Before tuning, the given model answers two splits, at the cost of all its blocks; afterwards the tuned model answers
    one. Grams are gathered once for each group of matrices. Midway calibration gathers Grams on the way before. Tuning
    and training are done by one worker.
    """
    rounds = [job.loads["calibration"], *([job.loads["way"]] if job.midway_share is not None else [])]
    groups = len(passes(model.matrices, job.gram_bytes))
    tuning = []
    if job.tuned_depth is not None:
        tuning = [
            Reading(load=job.loads["search"] + job.loads["test"], devices=1, cost=1 / job.tuned_depth),
            Reading(load=job.loads["search"], devices=1),
            Reading(load=job.loads["training"].times(job.train_epochs), devices=1, cost=BOTH_WAYS),
        ]
    return [
        *tuning,
        *(
            Reading(load=load.times(groups), devices=min(job.devices, shards_of(job, load)), cost=BOTH_WAYS)
            for load in rounds
        ),
        Reading(load=job.loads["training"].times(job.train_epochs), devices=1, cost=TRAINING),
    ]
