"""Field names and messages of refused job files."""

import pytest
from pydantic import ValidationError
from ruamel.yaml import YAML

from ranksieve.api.spec_errors import name_errors, spec_errors
from ranksieve.service.job.changes import JobChanges
from ranksieve.service.spec import JobSpec

QUOTE = "expected text; put quotes around it, YAML reads true, false, numbers and dates as such"


def errors_of(document):
    with pytest.raises(ValidationError) as caught:
        JobSpec.model_validate(document)
    return {error["field"]: error["detail"] for error in spec_errors(caught.value)}


def test_a_misspelt_field_gets_a_suggestion(spec):
    spec["search"] = {"max_evaluation": 3}

    assert errors_of(spec) == {"search.max_evaluation": "unknown field; did you mean max_evaluations?"}


def test_a_strange_field_gets_the_list(spec):
    spec["resources"] = {"zzz": 3}

    assert errors_of(spec) == {
        "resources.zzz": "unknown field; expected one of actors, threads_per_actor, gpus_per_actor"
    }


def test_an_unknown_field_in_a_union_member_is_compared_with_that_member(spec):
    spec["objective"] = {"kind": "target_params", "shore": 0.5}

    assert errors_of(spec) == {
        "objective.share": "this field is required",
        "objective.shore": "unknown field; did you mean share?",
    }


def test_messages_show_what_was_got(spec):
    spec["seed"] = None
    spec["priority"] = "x" * 1000
    spec["resources"] = {"actors": 0}

    assert errors_of(spec) == {
        "seed": "Input should be a valid integer; got None",
        "priority": "Input should be a valid integer; got a str",
        "resources.actors": "Input should be greater than or equal to 1; got 0",
    }


def test_a_union_is_reported_once_and_by_the_member_that_was_meant(spec):
    spec["task"]["choices"] = True
    assert errors_of(spec) == {
        "task.choices": f"expected a mapping of fields or expected a list or {QUOTE}; got True"
    }

    spec["task"]["choices"] = {"pos": "good", "neg": 0}
    assert errors_of(spec) == {"task.choices.neg": f"{QUOTE}; got 0"}


@pytest.mark.parametrize("written", ["true", "0", "1.5", "2026-11-30"])
def test_what_yaml_takes_for_something_else_than_text_has_to_be_quoted(spec, written):
    spec["task"]["choices"] = YAML(typ="safe").load(f"[{written}, 'no']")
    assert errors_of(spec) == {"task.choices.0": f"{QUOTE}; got {spec['task']['choices'][0]!r}"}

    spec["task"]["choices"] = YAML(typ="safe").load(f"['{written}', 'no']")
    JobSpec.model_validate(spec)


@pytest.mark.parametrize("document", [None, [], "text", 3])
def test_what_is_no_mapping_is_called_spec(document):
    assert list(errors_of(document)) == ["spec"]


def test_pointers_escape_what_a_label_may_hold(spec):
    spec["labels"] = {"a/b~c.d": 1}
    with pytest.raises(ValidationError) as caught:
        JobSpec.model_validate(spec)

    [error] = spec_errors(caught.value)

    assert error["pointer"] == "/labels/a~1b~0c.d"
    assert error["field"] == "labels.a/b~c.d"


def test_fields_are_those_of_the_model_that_refused_them():
    with pytest.raises(ValidationError) as caught:
        JobChanges.model_validate({"resources": {"actors": 1}})

    assert {error["field"]: error["detail"] for error in name_errors(caught.value.errors(), JobChanges)} == {
        "resources": "unknown field; expected one of name, labels, priority, actors",
    }
