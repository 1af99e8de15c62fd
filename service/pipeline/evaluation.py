"""Evaluation of an exported model on a job's task: `ranksieve evaluate`.

Needs no server.
"""

from pathlib import Path
from typing import Any

from ranksieve.search.statistics.intervals import mean_interval
from ranksieve.service.pipeline import plans
from ranksieve.service.server.settings import Settings
from ranksieve.service.spec import JobSpec
from ranksieve.workers.export.evaluation import choose_answers, evaluate_folder
from ranksieve.workers.types.scores import metric_of


def evaluate_export(settings: Settings, model_dir: Path, spec: JobSpec, split: str) -> dict[str, Any]:
    """Load an exported model with our own code and score it on a split.

    Returns:
        `metric_name`, `metric`, `interval` (95 %, absent for `lm`), `exact_match`, `nll_nats` per answer,
        `examples`, `tokens_per_second`.

    Raises:
        InputError: The folder is not an export, or the task does not fit it.
    """
    roots = plans.allowed_roots(settings)
    metric_name, scores = evaluate_folder(
        model_dir.resolve(),
        plans.task_plan(spec),
        plans.data_plan(spec, roots),
        split,
        spec.resources.batch_tokens,
        spec.resources.threads,
    )
    kind = spec.task.kind
    values: dict[str, Any] = {
        "metric_name": metric_name,
        "metric": metric_of(kind, scores),
        "nll_nats": float(scores.nll_nats.mean()),
        "examples": len(scores.quality),
        "tokens_per_second": scores.tokens / scores.seconds,
    }
    if kind != "lm":
        values["interval"] = list(mean_interval(scores.quality))
        values["exact_match"] = float(scores.exact.mean())
    return values


def sample_choices(settings: Settings, model_dir: Path, spec: JobSpec, count: int) -> list[dict[str, str]]:
    """Load an exported model and let it choose answers to the first test prompts.

    Returns:
        `prompt`, `label` and `answer` of each prompt.
    """
    roots = plans.allowed_roots(settings)
    task = plans.task_plan(spec)
    assert task.choices is not None
    labels = list(task.choices)
    rows = choose_answers(model_dir.resolve(), task, plans.data_plan(spec, roots), count)
    return [
        {"prompt": prompt, "label": labels[right], "answer": labels[chosen]} for prompt, right, chosen in rows
    ]
