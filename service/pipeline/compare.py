"""Comparison of a pruned model's rivals: `ranksieve compare`.

Needs no server.
"""

from collections.abc import Callable, Sequence
from threading import Event
from typing import Any

from ranksieve.service.pipeline import plans
from ranksieve.service.pipeline.confirmation import confidence_of
from ranksieve.service.pipeline.fingerprints import data_of
from ranksieve.service.pipeline.measures import Measures
from ranksieve.service.server.settings import Settings
from ranksieve.service.spec import JobSpec, MaxDrop
from ranksieve.workers.machine import devices
from ranksieve.workers.machine.limits import processors
from ranksieve.workers.model import hub
from ranksieve.workers.model.fetching import fetch
from ranksieve.workers.model.loading import prepare_model
from ranksieve.workers.preflight import check
from ranksieve.workers.rivals.comparison import (
    DENSE,
    Compared,
    ComparisonPlan,
    Skipped,
    chosen_kinds,
    compare,
)
from ranksieve.workers.types.progress import Progress

USUAL_POINTS = 1.0
"""Points that a rival may lose and still be enough, if the job allows no drop of its own."""


def compare_rivals(
    settings: Settings, spec: JobSpec, rivals: Sequence[str], report: Callable[[str], None]
) -> dict[str, Any]:
    """Fit the rivals to a job's calibration records and score them on its test split.

    Args:
        settings: Settings of the command.
        spec: The job.
        rivals: Names of `workers.rivals.comparison.KINDS`; none: all of them.
        report: Called with a line for people before every kind of rivals and behind every rival.

    Returns:
        `metric_name`; `examples`; `reference`, the name of the better of the dense models on the test split; `points`;
        `enough`, the name of the smallest rival below the reference's bytes that loses at most `points` to it by the
        upper end of its 95 % interval, or None; `rivals`, each with `kind`, `name`, `settings`, `file_bytes`,
        `tokens_per_second`, `speedup`, `seconds`, `metric`, `interval` (None for `lm`) and `drop_points` (estimate,
        low, high), the drop from the reference with a paired 95 % interval; `skipped`, each with `kind` and `reason`;
        `data`, digests of the records, as in the result of a job.

    Raises:
        InputError: The job cannot work, or a name of a rival is unknown.
        InfrastructureError: A library of the extra is missing.
    """
    kinds = chosen_kinds(rivals)
    gpus = sum(kind == "cuda" for kind, _, _ in devices.present())
    spec = spec.on_cluster([{"CPU": processors(), "GPU": gpus}])
    compared: list[Compared] = []
    skipped: list[Skipped] = []
    cache = plans.cache(settings)
    with cache.lease():
        plan = _plan(settings, spec, kinds)
        measures = Measures(plan.task, kl_weight=0.0)
        for one in compare(plan):
            match one:
                case Progress():
                    report(f"{one.phase} ({one.done + 1} of {one.total})")
                case Skipped():
                    skipped.append(one)
                case Compared():
                    report(f"{one.name}: {measures.metric_name} {measures.metric(one.scores):.3f}")
                    compared.append(one)
    return {**_summary(spec, measures, compared), "skipped": _rows(skipped), "data": data_of(plan.task)}


def _plan(settings: Settings, spec: JobSpec, kinds: Sequence[str]) -> ComparisonPlan:
    hub.configure()
    roots, cache, resources = plans.allowed_roots(settings), plans.cache(settings), spec.resources
    source = plans.model_source(spec, roots)
    fetch(source, Event(), lambda progress: None)
    checked = check(source, plans.task_plan(spec), plans.data_plan(spec, roots), cache)
    prepared = prepare_model(checked.model, devices.pick_device(resources.device), cache)
    return ComparisonPlan(
        folder=prepared.folder,
        dtype=prepared.dtype,
        task=checked.task,
        context=checked.context,
        chat_template=spec.task.chat_template,
        kinds=kinds,
        batch_tokens=resources.batch_tokens,
        threads=resources.threads,
        device=resources.device,
        seed=spec.seed,
    )


def _summary(spec: JobSpec, measures: Measures, compared: Sequence[Compared]) -> dict[str, Any]:
    lower_is_better = spec.task.kind == "lm"
    better = min if lower_is_better else max
    reference = better(
        (one for one in compared if one.kind == DENSE), key=lambda one: measures.metric(one.scores)
    )
    measures.dense["test"] = reference.scores
    points = spec.objective.points if isinstance(spec.objective, MaxDrop) else USUAL_POINTS
    rows = [_row(spec, measures, one) for one in compared]
    smaller = [row for row in rows if row["file_bytes"] < reference.size_bytes and row["kind"] != DENSE]
    enough = [row for row in smaller if row["drop_points"][2] <= points]
    smallest = min(enough, key=lambda row: row["file_bytes"], default=None)
    return {
        "metric_name": measures.metric_name,
        "examples": len(reference.scores.quality),
        "reference": reference.name,
        "points": points,
        "enough": None if smallest is None else smallest["name"],
        "rivals": rows,
    }


def _row(spec: JobSpec, measures: Measures, one: Compared) -> dict[str, Any]:
    drop = measures.drop(one.scores, "test", confidence_of(spec), spec.seed)
    return {
        "kind": one.kind,
        "name": one.name,
        "settings": dict(one.settings),
        "file_bytes": one.size_bytes,
        "tokens_per_second": one.tokens_per_second,
        "speedup": one.speedup,
        "seconds": one.seconds,
        "metric": measures.metric(one.scores),
        "interval": measures.interval(one.scores),
        "drop_points": [drop.estimate, drop.low, drop.high],
    }


def _rows(skipped: Sequence[Skipped]) -> list[dict[str, str]]:
    return [{"kind": one.kind, "reason": one.reason} for one in skipped]
