from itertools import chain, combinations
from typing import Any, get_args

import pytest
from pydantic import ValidationError

from ranksieve.service.server.tasks import EXAMPLES, task_kinds
from ranksieve.service.spec import TASK_KINDS, KindName, TaskSpec
from ranksieve.workers.types.metrics import METRIC_NAMES

KINDS = [kind["kind"] for kind in task_kinds()]

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


def test_every_kind_of_task_is_told() -> None:
    assert tuple(KINDS) == get_args(KindName) == tuple(EXAMPLES) == tuple(TASK_KINDS)
    assert {kind["kind"]: kind["metric_name"] for kind in task_kinds()} == METRIC_NAMES


@pytest.mark.parametrize("kind", task_kinds(), ids=KINDS)
def test_every_example_is_a_task_of_its_kind(kind: dict[str, Any]) -> None:
    assert TaskSpec.model_validate(kind["example"]).kind == kind["kind"]


@pytest.mark.parametrize("kind", task_kinds(), ids=KINDS)
def test_the_fields_that_are_told_are_those_that_are_checked(kind: dict[str, Any]) -> None:
    """Every set of fields is a valid task or not, as what is told of the kind says."""
    assert set(VALUES) == set(TaskSpec.model_fields) - {"kind"}
    fields = [name for part in ("needs", "may_have", "cannot_have") for name in kind[part]]
    assert sorted(fields) == sorted(VALUES)
    for names in chain.from_iterable(combinations(VALUES, size) for size in range(len(VALUES) + 1)):
        given = set(names)
        expected = given >= set(kind["needs"]) and not given & set(kind["cannot_have"])
        assert valid({"kind": kind["kind"], **{name: VALUES[name] for name in names}}) is expected, names


@pytest.mark.parametrize("kind", task_kinds(), ids=KINDS)
def test_a_text_that_is_needed_may_not_be_empty(kind: dict[str, Any]) -> None:
    for name in ("prompt", "answer"):
        assert valid({**kind["example"], name: ""}) is (name not in kind["needs"])


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("choice", {"choices": None}, "choices must not be empty for kind choice"),
        ("choice", {"choices": ""}, "choices must not be empty for kind choice"),
        ("choice", {"choices": ["a", "a"]}, "choices needs at least 2 different labels"),
        ("lm", {"choices": ["a", "b"]}, "kind lm takes no choices; remove it"),
        ("generate", {"choices": "options"}, "kind generate takes no choices; remove it"),
        ("generate", {"prompt": ""}, "prompt must not be empty for kind generate"),
    ],
)
def test_what_does_not_fit_is_named(kind: KindName, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TaskSpec.model_validate({**EXAMPLES[kind], **changes})
