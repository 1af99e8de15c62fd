"""Which fields of `task` go with which kind."""

from itertools import chain, combinations
from typing import Any

import pytest
from pydantic import ValidationError

from ranksieve.service.spec import TASK_KINDS, KindName, TaskSpec

VALUES: dict[str, Any] = {
    "prompt": "{{ text }}",
    "answer": "{{ label }}",
    "choices": ["good", "bad"],
    "delimiter": "\n",
    "chat_template": True,
    "max_new_tokens": 8,
    "data": {"source": {"path": "records.jsonl"}},
}
"""A value of every field beside `kind`, right for whatever kind has it."""


def valid(task: dict[str, Any]) -> bool:
    try:
        TaskSpec.model_validate(task)
    except ValidationError:
        return False
    return True


@pytest.mark.parametrize("kind", TASK_KINDS)
def test_every_set_of_fields_is_a_task_or_not_as_its_kind_says(kind: KindName) -> None:
    needs, refuses = {"answer", "data", *TASK_KINDS[kind].needs}, set(TASK_KINDS[kind].refuses)
    assert set(VALUES) == set(TaskSpec.model_fields) - {"kind"}
    for names in chain.from_iterable(combinations(VALUES, size) for size in range(len(VALUES) + 1)):
        given = set(names)
        task = {"kind": kind, **{name: VALUES[name] for name in names}}
        assert valid(task) is (given >= needs and not given & refuses), names


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("choice", {"choices": None}, "choices must not be empty for kind choice"),
        ("choice", {"choices": ""}, "choices must not be empty for kind choice"),
        ("choice", {"choices": ["a", "a"]}, "choices needs at least 2 different labels"),
        ("choice", {"answer": ""}, "answer"),
        ("lm", {"choices": ["a", "b"]}, "kind lm takes no choices; remove it"),
        ("generate", {"choices": "options"}, "kind generate takes no choices; remove it"),
        ("generate", {"prompt": ""}, "prompt must not be empty for kind generate"),
    ],
)
def test_what_does_not_fit_is_named(kind: KindName, changes: dict[str, Any], message: str) -> None:
    fitting = {name: value for name, value in VALUES.items() if name not in TASK_KINDS[kind].refuses}

    with pytest.raises(ValidationError, match=message):
        TaskSpec.model_validate({"kind": kind, **fitting, **changes})
