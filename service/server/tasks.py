"""Kinds of tasks: meaning, fields of `task` in a job file, metric, example."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from ranksieve.service.spec import TASK_KINDS, KindName, TaskSpec
from ranksieve.workers.types.metrics import METRIC_NAMES

EXAMPLES: Mapping[KindName, dict[str, Any]] = MappingProxyType(
    {
        "choice": {
            "kind": "choice",
            "prompt": "Review: {{ text }}\nSentiment:",
            "answer": "{{ label }}",
            "choices": ["negative", "positive"],
            "data": {"source": {"path": "reviews.jsonl"}},
        },
        "generate": {
            "kind": "generate",
            "prompt": "Passage: {{ context }}\nQuestion: {{ question }}\nAnswer:",
            "answer": "{{ answer }}",
            "max_new_tokens": 24,
            "data": {"source": {"path": "passages.jsonl"}},
        },
        "lm": {
            "kind": "lm",
            "answer": "{{ text[:2000] }}",
            "data": {"source": {"path": "paragraphs.csv"}},
        },
    }
)
"""Short example of a `task` of each kind."""


def task_kinds() -> list[dict[str, Any]]:
    """Return the kinds as plain JSON values, in the order of the job file."""
    return [
        {
            "kind": name,
            "meaning": kind.meaning,
            "metric_name": METRIC_NAMES[name],
            **_fields(name),
            "example": EXAMPLES[name],
        }
        for name, kind in TASK_KINDS.items()
    ]


def _fields(name: KindName) -> dict[str, list[str]]:
    """Return every field of `task` besides `kind`, by whether this kind needs it."""
    kind = TASK_KINDS[name]
    fields = {name: field for name, field in TaskSpec.model_fields.items() if name != "kind"}
    needs = [name for name, field in fields.items() if field.is_required() or name in kind.needs]
    other = {*needs, *kind.refuses}
    return {
        "needs": needs,
        "may_have": [name for name in fields if name not in other],
        "cannot_have": list(kind.refuses),
    }
