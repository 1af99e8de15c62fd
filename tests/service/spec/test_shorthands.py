"""Texts that stand for a mapping."""

import pytest
from jsonschema import Draft202012Validator
from pydantic import ValidationError

from ranksieve.service.spec import JobSpec, MaxDrop, ModelSpec, Pareto

TASK = {"kind": "lm", "answer": "a", "data": {"source": {"path": "a.jsonl"}}}
MODELS = {
    "org/name": ModelSpec(hub="org/name"),
    "gpt2": ModelSpec(hub="gpt2"),
    "./model": ModelSpec(path="./model"),
    "../model": ModelSpec(path="../model"),
    "/models/a": ModelSpec(path="/models/a"),
    "~/model": ModelSpec(path="~/model"),
    "models/a.gguf": ModelSpec(path="models/a.gguf"),
    "/models/a.gguf": ModelSpec(path="/models/a.gguf"),
}


def document(**fields: object) -> dict[str, object]:
    return {"model": "org/name", "task": TASK, **fields}


@pytest.mark.parametrize("text", MODELS)
def test_a_text_says_where_the_model_is(text: str) -> None:
    assert JobSpec.model_validate(document(model=text)).model == MODELS[text]


@pytest.mark.parametrize(("text", "objective"), [("max_drop", MaxDrop()), ("pareto", Pareto())])
def test_a_text_is_an_objective_with_its_defaults(text: str, objective: object) -> None:
    assert JobSpec.model_validate(document(objective=text)).objective == objective


@pytest.mark.parametrize(
    ("fields", "where"),
    [
        ({"objective": "target_params"}, ("objective", "target_params", "share")),
        ({"objective": "smallest"}, ("objective",)),
        ({"model": 3}, ("model",)),
        ({"model": ["org/name"]}, ("model",)),
    ],
)
def test_a_text_that_does_not_say_enough_is_refused(
    fields: dict[str, object], where: tuple[str, ...]
) -> None:
    with pytest.raises(ValidationError) as caught:
        JobSpec.model_validate(document(**fields))
    assert caught.value.errors()[0]["loc"] == where


def test_the_schema_has_both_forms() -> None:
    schema = Draft202012Validator(JobSpec.model_json_schema())
    for model in ("org/name", {"hub": "org/name"}):
        for objective in (
            "max_drop",
            "pareto",
            {"kind": "max_drop"},
            {"kind": "target_params", "share": 0.5},
        ):
            schema.validate(document(model=model, objective=objective))
    for wrong in ({"model": 3}, {"objective": "target_params"}, {"objective": 3}):
        assert list(schema.iter_errors(document(**wrong)))
