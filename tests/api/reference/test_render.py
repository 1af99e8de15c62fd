"""The reference pages: fresh, complete, and linked to headings that are there."""

import re

import pytest
import typer
from pydantic import BaseModel, Field

from ranksieve.api.cli.main import app
from ranksieve.api.cli.reference import job_file
from ranksieve.api.cli.reference.render import render, write
from ranksieve.api.http.app import openapi_document
from ranksieve.api.http.errors import CODES
from ranksieve.api.reference import FOLDER
from ranksieve.api.reference.markdown import anchor, table
from ranksieve.service.server.settings import Settings
from ranksieve.service.spec import JobSpec, ModelSpec, TaskSpec


@pytest.fixture(scope="module")
def pages():
    return render(typer.main.get_command(app))


def test_pages_are_fresh(pages):
    stored = {file.stem: file.read_text(encoding="utf-8") for file in FOLDER.iterdir()}

    stale = sorted(name for name in {*pages, *stored} if pages.get(name) != stored.get(name))
    assert not stale, f"api/reference/pages is not what the code says: {stale}; run `make docs`"


def test_pages_are_written_where_they_are_asked_for(pages, tmp_path):
    written = write(tmp_path / "new" / "folder", typer.main.get_command(app))

    assert {file.stem: file.read_text(encoding="utf-8") for file in written} == pages


def _fields(model: type[BaseModel]) -> set[str]:
    definitions = model.model_json_schema()
    return {
        name for one in [definitions, *definitions["$defs"].values()] for name in one.get("properties", {})
    }


def test_job_file_has_every_field(pages):
    assert {name for name in _fields(JobSpec) if f"| `{name}` |" not in pages["job-file"]} == set()


def test_job_file_tells_type_default_and_bounds(pages):
    assert "| `seed` | integer | `0` | 0 to 4,294,967,295 |" in pages["job-file"]
    assert "| `kind` | `max_drop` | `max_drop` |" in pages["job-file"]
    assert "[`pareto`](#objective-of-kind-pareto)" in pages["job-file"]


def test_a_field_that_takes_a_mapping_means_what_the_mapping_does(pages):
    assert f"| `task` | [mapping](#task) | required |  | {TaskSpec.__doc__} |" in pages["job-file"]


def test_advanced_fields_stand_below_the_others(monkeypatch):
    class Spec(BaseModel):
        usual: int = Field(1, description="Usual.")
        rare: int = Field(2, description="Rare.", json_schema_extra={"x-advanced": True})
        other: int = Field(3, description="Usual, too.")
        model: ModelSpec

    monkeypatch.setattr(job_file, "JobSpec", Spec)
    usual, _, rare = job_file.render().partition("## `model`")[0].partition("Seldom needed:")

    assert "| `other` | integer | `3` |  | Usual, too. |" in usual
    assert "| `rare` |" not in usual
    assert "| `rare` | integer | `2` |  | Rare. |" in rare


def test_routes_have_every_route(pages):
    routes = {
        f"### `{method.upper()} {path}`"
        for path, methods in openapi_document()["paths"].items()
        for method in methods
    }

    assert routes == set(re.findall(r"^### `[A-Z]+ .*$", pages["routes"], re.MULTILINE))


def test_commands_have_every_command(pages):
    def names(group, path):
        for name, command in group.commands.items():
            yield from (
                names(command, f"{path} {name}") if hasattr(command, "commands") else [f"{path} {name}"]
            )

    documented = re.findall(r"^## `(.+)`$", pages["commands"], re.MULTILINE)
    assert documented == list(names(typer.main.get_command(app), "ranksieve"))


def test_settings_have_every_variable(pages):
    documented = re.findall(r"^\| `(RANKSIEVE_\w+)`", pages["settings"], re.MULTILINE)

    assert documented == [f"RANKSIEVE_{name.upper()}" for name in Settings.model_fields]


def test_errors_have_every_code(pages):
    assert all(f"| `{code}` | {status} |" in pages["errors"] for status, code in CODES.items())


def test_links_lead_to_headings(pages):
    headings = {
        name: {anchor(one) for one in re.findall(r"^#+ (.+)$", text, re.MULTILINE)}
        for name, text in pages.items()
    }
    for name, text in pages.items():
        for link in re.findall(r"\]\(([^)]+)\)", text):
            file, _, heading = link.partition("#")
            there = headings[file.removesuffix(".md") or name]
            assert not heading or heading in there, (name, link)


def test_cells_stay_in_their_row():
    assert table(["a", "b"], [["x|y", "two\nlines"]]) == "| a | b |\n|---|---|\n| x\\|y | two lines |"
