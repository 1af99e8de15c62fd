"""Documents of a job as the tests of the API send and get them."""

from copy import deepcopy
from typing import Any

from sample_jobs import sample_job

from ranksieve.search.space.matrix import MatrixShape

SPEC = sample_job("snippets")

RESULT: dict[str, Any] = {
    "metric_name": "accuracy",
    "objective": {"kind": "max_drop", "points": 2.0, "confidence": 0.8},
    "target_bytes": None,
    "latency": None,
    "train_epochs": 0,
    "data": {"task": "d1"},
    "model": {"digest": "d2", "dtype": "float32"},
    "finalists": [
        {
            "kept_share": 0.5,
            "genome": [3, 4],
            "metric": 0.79,
            "kl_nats": 0.04,
            "drop_points": -0.5,
            "drop_low": -1.6,
            "drop_high": 0.6,
            "risk": None,
            "passed": True,
        },
        {
            "kept_share": 0.4,
            "genome": [1, 2],
            "metric": 0.78,
            "kl_nats": 0.05,
            "drop_points": 0.5,
            "drop_low": -0.6,
            "drop_high": 1.6,
            "risk": None,
            "passed": True,
        },
    ],
    "artifact": "/jobs/1/artifacts",
    "genome": [1, 2],
    "ranks": {"layers.0.q_proj": 16, "layers.1.q_proj": -1},
    "evaluations": 12,
    "tokens": 3456,
    "seconds": {"search": 1.5},
    "confidence": 0.8,
    "promise_held": True,
    "reference": {
        "metric": {"search": 0.79, "confirm": 0.785, "test": 0.788},
        "interval": {"test": [0.762, 0.812]},
        "tuned": False,
        "blocks": None,
    },
    "dense": {
        "metric": {"search": 0.79, "confirm": 0.785, "test": 0.788},
        "interval": {"test": [0.762, 0.812]},
        "block_params": 1000,
        "total_params": 1500,
        "file_bytes": 6_000_000,
        "tokens_per_second": 500.0,
    },
    "best": {
        "metric": {"search": 0.79, "confirm": 0.78, "test": 0.781},
        "interval": {"test": [0.755, 0.806]},
        "block_params": 400,
        "total_params": 900,
        "file_bytes": 3_600_000,
        "tokens_per_second": 1100.0,
        "kept_block_params": 0.4,
        "left_out_params": 0,
        "kl_nats": {"test": 0.05},
        "drop": {
            "confirm": {"drop_points": 0.5, "drop_low": -0.6, "drop_high": 1.6},
            "test": {"drop_points": 0.7, "drop_low": -0.5, "drop_high": 1.9},
        },
    },
}

_NEEDS = {
    "tokens": 2_000_000,
    "flops": 3_200_000_000_000,
    "host_bytes": 2_500_000_000,
    "accelerator_bytes": 0,
    "disk_bytes": 700_000_000,
    "seconds_low": 45.0,
    "seconds_high": 200.0,
}
ESTIMATE: dict[str, Any] = {
    "model": {"matrices": 210, "block_params": 1000, "total_params": 1500, "dtype": "bfloat16"},
    "machine": {
        "name": "this machine's processor, 2 threads",
        "device": "cpu",
        "measured": True,
        "flops_per_second": 2.5e11,
        "memory_bytes": 16_000_000_000,
    },
    "gram_passes": 3,
    "evaluations_at_most": 400,
    "phases": [{"phase": "prepare", **_NEEDS}],
    "total": _NEEDS,
    "notes": ["needs 20.0 GB of memory"],
}


# What is wrong, where to put which value in the spec (`...` removes), and the field the answer must name.
BAD_SPECS: list[tuple[str, tuple[str, ...], Any, str]] = [
    ("unknown top-level field", ("modle",), {}, "modle"),
    ("unknown nested field", ("search", "popluation"), 4, "search.popluation"),
    ("no model", ("model",), ..., "model"),
    ("no source of the model", ("model",), {}, "model"),
    ("two sources of the model", ("model", "hub"), "org/name", "model"),
    ("revision without hub", ("model", "revision"), "main", "model.revision"),
    ("unknown dtype", ("model", "dtype"), "int3", "model.dtype"),
    ("no matrix patterns", ("model", "include"), [], "model.include"),
    ("unknown task kind", ("task", "kind"), "summarize", "task.kind"),
    ("no answer template", ("task", "answer"), ..., "task.answer"),
    ("empty prompt", ("task", "prompt"), "", "task.prompt"),
    ("choices of the wrong type", ("task", "choices"), 5, "task.choices"),
    ("a choice of the wrong type", ("task", "choices"), ["a", 5], "task.choices.1"),
    ("one choice only", ("task", "choices"), ["a", "a"], "task.choices"),
    ("no records", ("task", "data"), {}, "task.data"),
    ("two sources of data", ("task", "data", "source", "hub"), {"id": "imdb"}, "task.data.source"),
    ("unknown split", ("task", "data", "files"), {"train": {"path": "a.csv"}}, "task.data.files.train"),
    ("split too small", ("task", "data", "sizes"), {"search": 1}, "task.data.sizes.search"),
    ("unknown effort", ("effort",), "heroic", "effort"),
    ("no evaluations", ("search",), {"max_evaluations": 0}, "search.max_evaluations"),
    ("text for a number", ("search",), {"max_evaluations": "many"}, "search.max_evaluations"),
    (
        "densities in the wrong order",
        ("search",),
        {"constraints": [{"matrices": ["*"], "density": [1, 0]}]},
        "search.constraints.0.density",
    ),
    ("objective without kind", ("objective",), {"points": 1}, "objective.kind"),
    ("unknown objective", ("objective",), {"kind": "fastest"}, "objective.kind"),
    ("drop over 100", ("objective",), {"kind": "max_drop", "points": 101}, "objective.points"),
    (
        "more sure than any test",
        ("objective",),
        {"kind": "max_drop", "confidence": 0.9991},
        "objective.confidence",
    ),
    ("objective without share", ("objective",), {"kind": "target_params"}, "objective.share"),
    ("no actors", ("resources",), {"actors": 0}, "resources.actors"),
    ("a section that is no mapping", ("search",), [1], "search"),
]

MATRICES = [
    MatrixShape(name=f"layers.{layer}.q_proj", out_features=64, in_features=64, layer=layer, kind="q_proj")
    for layer in (0, 1)
]
RECORD = {
    "generation": 0,
    "target_share": 0.4,
    "kept_share": 0.41,
    "kl_nats": 0.05,
    "loss_nats": 0.04,
    "drop_points": 0.8,
    "metric": 0.78,
    "evaluations": 12,
    "tokens": 3456,
    "accepted": True,
    "loss_min": 0.04,
    "loss_avg": 0.05,
    "loss_max": 0.07,
    "loss_std": 0.01,
}
CANDIDATE = {
    "generation": 0,
    "genome": [1, 2],
    "ranks": [16, 32],
    "kept_share": 0.41,
    "kl_nats": 0.05,
    "loss_nats": 0.04,
    "drop_points": 0.8,
    "drop_bound": 1.6,
    "metric": 0.78,
    "tokens": 100,
    "seconds": 0.5,
    "failure": None,
}


def changed(spec: dict[str, Any], place: tuple[str, ...], value: Any) -> dict[str, Any]:
    """A copy of a spec with one value put in, or taken out where it is `...`."""
    document = deepcopy(spec)
    *above, key = place
    inner = document
    for part in above:
        inner = inner.setdefault(part, {})
    if value is ...:
        del inner[key]
    else:
        inner[key] = value
    return document


JOB_TEXT = """\
name: snippets
model: {path: /models/tiny}
task:
  kind: choice
  prompt: "Review: {{ text }}\\nSentiment:"
  answer: "{{ label }}"
  choices: [negative, positive]
  data:
    source: {path: /data/reviews.jsonl}
"""
"""A job file as its user writes it."""
