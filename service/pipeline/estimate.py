"""The dry run: what a job will need, before it is submitted. Starts nothing.

Checks it as a submission does, but for the model's weights, of which nothing is read or fetched.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from ranksieve.search.evolution.finalists import MOST_FINALISTS
from ranksieve.search.evolution.progress import BEST_FINALISTS
from ranksieve.search.evolution.schedules import MOST_LOOKS
from ranksieve.service.pipeline import plans
from ranksieve.service.pipeline.confirmation import promise_notes
from ranksieve.service.pipeline.descent import UPWARDS
from ranksieve.service.pipeline.latency import workload_of
from ranksieve.service.pipeline.pipeline import VERIFIED_EXAMPLES
from ranksieve.service.pipeline.rounds import DESCENT_EXAMPLES, records_of
from ranksieve.service.pipeline.scoring import REFIT_EXAMPLES
from ranksieve.service.pipeline.search_plan import given_seeds, own_seeds
from ranksieve.service.server.settings import Settings
from ranksieve.service.spec import JobSpec, MaxDrop, Pareto, TargetLatency
from ranksieve.service.spec.job import ROUND_EXAMPLES
from ranksieve.workers.cost.estimate import PhaseEstimate, estimate
from ranksieve.workers.cost.shapes import (
    JobSize,
    Load,
    ModelSize,
    gram_passes,
    load_of,
    pass_load,
    size_of,
    uniform_load,
)
from ranksieve.workers.cost.speed import Rates, dtype_name, rates_for
from ranksieve.workers.export.verification import LATENCY_ROUNDS, SPEED_EXAMPLES, SPEED_ROUNDS
from ranksieve.workers.factors.midway import examples_of_the_way
from ranksieve.workers.factors.propagation import MOST_EXAMPLES, judges_of, models_of
from ranksieve.workers.model.checks import holds_weights
from ranksieve.workers.model.sources import head_folder, load_config
from ranksieve.workers.preflight import Checked
from ranksieve.workers.types.plan import EncodedTask

NO_WEIGHTS = "no weights are here yet: a job fetches those of a hub model, model.path must hold them"


def estimate_job(settings: Settings, spec: JobSpec, checked: Checked) -> dict[str, Any]:
    """Estimates a job that has been checked; takes about a second where it is for the processor, which is timed.

    Returns:
        `model`, `machine`, `gram_passes`, `evaluations_at_most`, `phases` in order, their `total`, and `notes` on what
        will not fit. Units are in the names; memory of a phase is its peak, of the whole the largest.
    """
    model, job = sizes_of(settings, spec, checked)
    rates = rates_for(job.device, job.dtype, spec.resources.threads)
    described = _described(model, job, rates, spec)
    described["notes"] += _answer_notes(checked.task)
    if checked.model.kind == "path" and not holds_weights(Path(checked.model.location)):
        described["notes"].append(NO_WEIGHTS)
    return described


def sizes_of(settings: Settings, spec: JobSpec, checked: Checked) -> tuple[ModelSize, JobSize]:
    """The model and the job that are estimated, as numbers."""
    cache = plans.cache(settings)
    with cache.lease():
        config = load_config(head_folder(checked.model, cache))
    batch_tokens, task = spec.resources.tokens_per_batch, checked.task
    loads = _loads(spec, lambda split, stop: load_of(task, split, batch_tokens, stop))
    if isinstance(spec.objective, TargetLatency):
        loads["latency"] = pass_load(workload_of(spec.objective, spec, checked))
        loads["verify"] += loads["latency"].times(2 * (1 + LATENCY_ROUNDS))  # both models, warm
    dtype = dtype_name(spec.model.dtype, spec.resources.device)
    job = job_size(spec, loads, dtype, gguf=checked.model.kind == "gguf")
    if not checked.by_block:
        job = replace(job, propagated=0, loads={**loads, "propagation_looks": Load()})
    return size_of(config, checked.model.include, checked.model.exclude), job


def estimate_size(model: ModelSize, spec: JobSpec, length: int, rates: Rates) -> dict[str, Any]:
    """Estimates a job on examples of one row and `length` tokens each, one position of which is read; reads no file.

    Args:
        model: The dense model, from its configuration; that of the spec is not looked at.
        spec: Split sizes, method, search and resources.
        length: Tokens of an example.
        rates: Of the device, e.g. from a data sheet.

    Returns:
        As `estimate_job`.
    """
    sizes, batch_tokens = spec.task.data.sizes.model_dump(), spec.resources.tokens_per_batch
    loads = _loads(
        spec, lambda split, stop: uniform_load(len(range(sizes[split])[:stop]), length, batch_tokens)
    )
    dtype = "bfloat16" if spec.model.dtype == "auto" else spec.model.dtype
    return _described(model, job_size(spec, loads, dtype), rates, spec)


def _loads(spec: JobSpec, first: Callable[[str, int | None], Load]) -> dict[str, Load]:
    """What `workers.cost.shapes.JobSize` wants; `first` tells the load of a split, of its first examples or of all."""
    refit, rounds, descents = spec.projection.refit, spec.reweigh_rounds, spec.descent_rounds
    gathered = len(range(spec.task.data.sizes.calibration)[: spec.projection.gram_examples])
    reweigh_looks, descend_looks = _looks(spec)
    times = spec.projection.propagation_rounds
    confirmed = [first("confirm", stop) for stop in (VERIFIED_EXAMPLES, SPEED_EXAMPLES[spec.task.kind])]
    return {
        **{split: first(split, None) for split in ("search", "confirm", "test")},
        "calibration": first("calibration", gathered),
        "way": first("calibration", examples_of_the_way(gathered)),
        "propagation": first("calibration", MOST_EXAMPLES) if spec.propagates else Load(),
        "propagation_looks": _propagation_looks(spec, first),
        "refinement": first("calibration", spec.projection.refine_examples),
        "reweigh": first("calibration", ROUND_EXAMPLES).times(times * rounds) if rounds else Load(),
        "descend": first("calibration", DESCENT_EXAMPLES).times(times * descents) if descents else Load(),
        "reweigh_looks": first("search", None).times(times * reweigh_looks),
        "descend_looks": first("search", None).times(times * descend_looks),
        "refit": Load() if refit is None else first("calibration", REFIT_EXAMPLES),
        "verify": _verifying(*confirmed),
    }


def _propagation_looks(spec: JobSpec, first: Callable[[str, int | None], Load]) -> Load:
    """Where the sizes of its models have to be found: the dense model, and as many as halving the seeds takes."""
    if isinstance(spec.propagated_shares(), tuple):
        return Load()
    judges = judges_of(spec.task.data.sizes.calibration)
    return first("calibration", judges).times(1 + MOST_LOOKS)


def _looks(spec: JobSpec) -> tuple[int, int]:
    """Most passes over the search split that rounds of reweighing and of descent take to find their sizes."""
    if not isinstance(spec.objective, MaxDrop):
        return 0, 0
    look, descents = MOST_LOOKS, spec.descent_rounds
    tell = records_of(spec, spec.task.data.sizes.calibration).confidence is not None
    if tell and spec.reweigh_rounds:
        return look, 0
    later = 0 if tell else max(0, descents - descents // UPWARDS - 1)
    return look * bool(spec.reweigh_rounds), look * bool(descents) + later


def job_size(spec: JobSpec, loads: Mapping[str, Load], dtype: str, *, gguf: bool = False) -> JobSize:
    """A job as numbers.

    Args:
        spec: The job.
        loads: Of every split, `calibration` as far as Grams are gathered, of `way`, `propagation`, `refinement`,
            `refit` and `verify`.
        dtype: The working dtype.
        gguf: Whether the model has to be de-quantized.
    """
    resources = spec.resources
    return JobSize(
        dtype=dtype,
        device=resources.device,
        gguf=gguf,
        method=spec.projection.method,
        gram_bytes=resources.gram_bytes,
        midway_share=spec.midway_share,
        propagated=models_of(spec.propagated_shares()),
        propagation_rounds=spec.projection.propagation_rounds,
        loads=loads,
        refine_epochs=spec.projection.refine_epochs,
        search_passes=sum(examples * count for examples, count in scorings(spec))
        / spec.task.data.sizes.search,
        finalists=finalists(spec),
        fewest_finalists=1 if isinstance(spec.objective, MaxDrop) else finalists(spec),
        actors=resources.actors,
        actors_per_device=resources.actors_per_device,
        devices_per_actor=resources.devices_per_actor,
        devices=resources.devices,
    )


def finalists(spec: JobSpec) -> int:
    """Most that the search hands to the confirm split."""
    if isinstance(spec.objective, Pareto):
        return spec.objective.finalists
    return MOST_FINALISTS if isinstance(spec.objective, MaxDrop) else BEST_FINALISTS + 1


def scorings(spec: JobSpec) -> list[tuple[int, int]]:
    """On how many examples a search scores how often at most, the largest first.

    `search.max_evaluations` bounds the scorings of all stages together. On all examples go the seeds, and of every
    later generation the survivors; where the screen is as large as the split, everything.
    """
    search, whole = spec.search, spec.task.data.sizes.search
    if search.screen >= whole:
        return [(whole, search.max_evaluations)]
    seeds = max(own_seeds(spec) + given_seeds(spec), search.population)
    most = [(whole, seeds + search.generations * search.survivors)]
    for before, stage in reversed(list(pairwise(search.stages))):
        most.append((stage.examples, (1 + search.generations) * before.survivors))
    most.append((search.stages[0].examples, search.max_evaluations))
    left, bounds = search.max_evaluations, []
    for examples, count in most:
        bounds.append((examples, min(left, count)))
        left -= bounds[-1][1]
    return bounds


def _verifying(once: Load, timed: Load) -> Load:
    """The exported model once on what is verified, then both models in turn for their speed."""
    return once + timed.times(2 * SPEED_ROUNDS)


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
        "gram_passes": len(gram_passes(model, job.method, job.gram_bytes)),
        "evaluations_at_most": spec.search.max_evaluations,
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
                "raise resources.gpus_per_actor, lower resources.batch_tokens or resources.gram_memory_gib, "
                "or narrow model.include"
                if job.device == "cuda"
                else "lower resources.actors, resources.batch_tokens or resources.gram_memory_gib"
            )
        )
    if not rates.measured:
        low, high = rates.utilisation
        notes.append(f"not timed: assumed {rates.name} at {low:.0%} to {high:.0%} of its data sheet's peak")
    return notes


def _answer_notes(task: EncodedTask) -> list[str]:
    """Where no model could get full marks."""
    if task.kind != "generate":
        return []
    examples = [example for split in task.splits.values() for example in split]
    cut = sum(not example.can_be_written(task.max_new_tokens) for example in examples)
    told = (
        f"{cut:,} of {len(examples):,} answers cannot be written whole: they have several lines, or more tokens than "
        f"task.max_new_tokens, {task.max_new_tokens}; no model gets full marks for them"
    )
    return [told] if cut else []
