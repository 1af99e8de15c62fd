"""Estimate of what a job will need, before it is submitted. Starts nothing.

The spec is checked as in a submission, except for the weights of the model, which are neither read nor fetched.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ranksieve.search.evolution.finalists import RUNGS
from ranksieve.search.evolution.progress import BEST_FINALISTS
from ranksieve.service.pipeline import plans
from ranksieve.service.pipeline.confirmation import promise_notes
from ranksieve.service.pipeline.latency import workload_of
from ranksieve.service.pipeline.reproduction import VERIFIED_EXAMPLES
from ranksieve.service.pipeline.search_plan import own_seeds
from ranksieve.service.policy import (
    FRONT,
    midway_share,
    policy_of,
    tuned_depth,
)
from ranksieve.service.server.settings import Settings
from ranksieve.service.spec import JobSpec, MaxDrop, Pareto, TargetLatency
from ranksieve.workers.cost.estimate import PhaseEstimate, estimate
from ranksieve.workers.cost.shapes import (
    JobSize,
    Load,
    ModelSize,
    load_of,
    pass_load,
    size_of,
    uniform_load,
)
from ranksieve.workers.cost.speed import Rates, dtype_name, rates_for
from ranksieve.workers.export.verification import LATENCY_ROUNDS, SPEED_EXAMPLES, SPEED_ROUNDS
from ranksieve.workers.factors.midway import examples_of_the_way
from ranksieve.workers.factors.passes import passes
from ranksieve.workers.model.checks import holds_weights
from ranksieve.workers.model.sources import head_folder, load_config
from ranksieve.workers.preflight import Checked
from ranksieve.workers.types.plan import EncodedTask

NO_WEIGHTS = "no weights are here yet: a job fetches those of a hub model, model.path must hold them"


def estimate_job(settings: Settings, spec: JobSpec, checked: Checked) -> dict[str, Any]:
    """Estimate a checked job.

    A processor is timed meanwhile, in less than a second.

    Returns:
        `model`, `machine`, `gram_passes`, `evaluations_at_most`, `phases` in order, their `total`, and `notes` on what
        will not fit. Units are in the names. Memory of a phase is its peak; that of the total is the largest peak.
    """
    model, job = sizes_of(settings, spec, checked)
    rates = rates_for(job.device, job.dtype, spec.resources.threads)
    described = _described(model, job, rates, spec)
    described["notes"] += _answer_notes(checked.task)
    if checked.model.kind == "path" and not holds_weights(Path(checked.model.location)):
        described["notes"].append(NO_WEIGHTS)
    return described


def sizes_of(settings: Settings, spec: JobSpec, checked: Checked) -> tuple[ModelSize, JobSize]:
    """Return the model and the job to estimate, as numbers."""
    cache = plans.cache(settings)
    with cache.lease():
        config = load_config(head_folder(checked.model, cache))
    batch_tokens, task = spec.resources.batch_tokens, checked.task
    loads = _loads(spec, lambda split, stop: load_of(task, split, batch_tokens, stop))
    if isinstance(spec.objective, TargetLatency):
        loads["latency"] = pass_load(workload_of(spec.objective, spec, checked))
        loads["verify"] += loads["latency"].times(2 * (1 + LATENCY_ROUNDS))  # both models, warm
    dtype = dtype_name(spec.model.dtype, spec.resources.device)
    job = _job_size(spec, loads, dtype, gguf=checked.model.kind == "gguf")
    if not checked.by_block:
        job = replace(job, tuned_depth=None)
    return size_of(config, checked.model.include, checked.model.exclude), job


def estimate_size(model: ModelSize, spec: JobSpec, length: int, rates: Rates) -> dict[str, Any]:
    """Estimate a job on examples of one row and `length` tokens each.

    One position of each row is read. No file is read.

    Args:
        model: The dense model, from its configuration. The model of the spec is ignored.
        spec: Split sizes, search and resources.
        length: Tokens of an example.
        rates: Rates of the device, e.g. from a data sheet.

    Returns:
        See `estimate_job`.
    """
    sizes: dict[str, int] = {name: size for name, size in spec.sizes.items()}
    batch_tokens = spec.resources.batch_tokens
    loads = _loads(
        spec, lambda split, stop: uniform_load(len(range(sizes[split])[:stop]), length, batch_tokens)
    )
    dtype = "bfloat16" if spec.model.dtype == "auto" else spec.model.dtype
    return _described(model, _job_size(spec, loads, dtype), rates, spec)


def _loads(spec: JobSpec, first: Callable[[str, int | None], Load]) -> dict[str, Load]:
    """Return the loads of `workers.cost.shapes.JobSize`.

    `first` gives the load of the first examples of a split, or of all.
    """
    gathered = plans.gram_examples(spec)
    once, timed = (first("confirm", stop) for stop in (VERIFIED_EXAMPLES, SPEED_EXAMPLES[spec.task.kind]))
    return {
        **{split: first(split, None) for split in ("search", "confirm", "test")},
        "calibration": first("calibration", gathered),
        "way": first("calibration", examples_of_the_way(gathered)),
        "training": first("calibration", policy_of(spec).train_examples),
        "verify": once + timed.times(2 * SPEED_ROUNDS),  # both models are timed
    }


def _job_size(spec: JobSpec, loads: Mapping[str, Load], dtype: str, *, gguf: bool = False) -> JobSize:
    """Return a job as numbers.

    Args:
        spec: The job.
        loads: Loads by name, see `JobSize`.
        dtype: The working dtype.
        gguf: Whether the model has to be de-quantized.
    """
    resources = spec.resources
    return JobSize(
        dtype=dtype,
        device=resources.device,
        gguf=gguf,
        gram_bytes=resources.gram_bytes,
        midway_share=midway_share(spec),
        loads=loads,
        train_epochs=policy_of(spec).train_epochs,
        tuned_depth=tuned_depth(spec),
        rounded=spec.bits is not None,
        search_passes=scorings(spec),
        finalists=finalists(spec),
        actors=resources.most_actors,
        actors_per_device=resources.actors_per_device,
        devices_per_actor=resources.devices_per_actor,
        devices=resources.devices,
    )


def finalists(spec: JobSpec) -> int:
    """Return the most finalists that the search passes to the confirm split."""
    if isinstance(spec.objective, Pareto):
        return int(FRONT["finalists"])
    return RUNGS if isinstance(spec.objective, MaxDrop) else BEST_FINALISTS + 1


def scorings(spec: JobSpec) -> int:
    """Return the most candidates that the search scores: seeds and children."""
    search = policy_of(spec).search
    seeds = max(own_seeds(spec) + len(spec.search.seeds), search.population)
    return min(search.max_evaluations, seeds + search.generations * search.offspring)


def _described(model: ModelSize, job: JobSize, rates: Rates, spec: JobSpec) -> dict[str, Any]:
    phases = estimate(model, job, rates)
    total = _total(phases)
    return {
        "model": {
            "matrices": len(model.matrices),
            "block_params": model.block_params,
            "total_params": model.total_params,
            "dtype": job.dtype,
        },
        "machine": {
            "name": rates.name,
            "device": job.device,
            "measured": rates.measured,
            "flops_per_second": rates.flops[job.dtype],
            "memory_bytes": round(rates.capacity_bytes),
        },
        "gram_passes": len(passes(model.matrices, job.gram_bytes)),
        "evaluations_at_most": scorings(spec),
        "phases": [asdict(phase) for phase in phases],
        "total": total,
        "notes": [*_notes(job, rates, total), *promise_notes(spec)],
    }


def _total(phases: tuple[PhaseEstimate, ...]) -> dict[str, Any]:
    added = ("tokens", "flops", "disk_bytes", "seconds_low", "seconds_high")
    peaks = ("host_bytes", "accelerator_bytes")
    return {
        **{name: sum(getattr(phase, name) for phase in phases) for name in added},
        **{name: max(getattr(phase, name) for phase in phases) for name in peaks},
    }


def _notes(job: JobSize, rates: Rates, total: dict[str, Any]) -> list[str]:
    notes = []
    needed = total["accelerator_bytes"] or total["host_bytes"]
    if needed > rates.capacity_bytes:
        notes.append(
            f"needs {needed / 1e9:.1f} GB of memory, {rates.name} has {rates.capacity_bytes / 1e9:.1f} GB; "
            + (
                "raise resources.gpus_per_actor, or narrow model.include"
                if job.device == "cuda"
                else "lower resources.actors"
            )
        )
    if not rates.measured:
        notes.append(f"not timed: assumed {rates.name} at {rates.utilisation:.0%} of its data sheet's peak")
    return notes


def _answer_notes(task: EncodedTask) -> list[str]:
    """Return a note on answers that no model can get full marks for."""
    if task.kind != "generate":
        return []
    examples = [example for split in task.splits.values() for example in split]
    cut = sum(not task.can_be_written(example) for example in examples)
    lines = "" if task.several_lines else "several lines, or "
    note = (
        f"{cut:,} of {len(examples):,} answers cannot be written whole: they have {lines}more tokens than "
        f"task.max_new_tokens, {task.max_new_tokens}; no model gets full marks for them"
    )
    return [note] if cut else []
