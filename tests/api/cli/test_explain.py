"""What `ranksieve explain` says of the fields of a job file."""

import pytest
from typer.testing import CliRunner

from ranksieve.api.cli import main
from ranksieve.api.cli.explain import fields_of
from ranksieve.service.spec import JobSpec

FIELDS = list(fields_of(JobSpec.model_json_schema()))


def explain(field):
    return CliRunner().invoke(main.app, ["explain", field])


def test_a_field_is_told_with_its_type_default_range_and_meaning():
    assert explain("resources.threads_per_actor").stdout.splitlines()[:4] == [
        "resources.threads_per_actor",
        "  type: integer",
        "  default: 1",
        "  bounds: 1 to 1,024",
    ]
    assert "\n  meaning: Hugging Face hub id, e.g. " in explain("model.hub").stdout


def test_a_field_of_several_kinds_of_objective_is_told_for_each():
    printed = explain("objective.share").stdout

    assert "objective.share of target_params\n  type: number\n  default: required\n" in printed
    assert "objective.share of target_bytes\n  type: number\n  default: none\n" in printed


def test_a_group_lists_its_fields():
    printed = explain("search").stdout

    assert printed.startswith("search\n  type: mapping of fields\n  meaning: ")
    assert "\nfields:\n" in printed
    assert "  search.constraints: list of mapping of fields, default []\n" in printed


@pytest.mark.parametrize("field", FIELDS)
def test_every_field_can_be_explained(field):
    done = explain(field)

    assert done.exit_code == 0
    assert done.stdout.startswith(field)


@pytest.mark.parametrize(
    ("typo", "answer"),
    [
        ("points", "did you mean objective.points?"),
        ("search.path", "did you mean model.path or"),
        ("serch.max_evaluatons", "did you mean search.max_evaluations"),
        ("constrants", "did you mean search.constraints"),
        ("zzz", "expected one of name, "),
    ],
)
def test_a_typo_gets_near_names(typo, answer):
    done = explain(typo)

    assert done.exit_code == 2
    assert done.stderr.startswith(f"{typo}: no such field of the job file; {answer}")
