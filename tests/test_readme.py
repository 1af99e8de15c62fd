"""The READMEs keep up with the code: the file map is complete, job files are valid, links lead somewhere."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest
import typer
import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from ranksieve.api.cli.main import app
from ranksieve.api.http.app import create_app
from ranksieve.service.application import Application
from ranksieve.service.run.controller import Controller
from ranksieve.service.run.feed import Feed
from ranksieve.service.server.settings import Settings
from ranksieve.service.spec import JobSpec
from ranksieve.service.store import Store

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = {"README.md": README} | {
    name: (ROOT / name).read_text(encoding="utf-8") for name in ("tests/benchmarks/README.md",)
}
LINKS = sorted(
    {(page, link) for page, text in PAGES.items() for link in re.findall(r"\]\((?!https:)([^)]+)\)", text)}
)
PACKAGES = ("api", "service", "workers", "search")


@pytest.fixture
def openapi(tmp_path: Path) -> dict[str, Any]:
    """The document of a server that is never started."""

    def unused(*_: Any) -> Any:
        raise AssertionError

    settings = Settings(data_dir=tmp_path)
    store = Store(settings.store_url)
    controller = Controller(store, unused, settings.jobs_dir)
    document = create_app(Application(settings, store, controller, Feed(), unused, unused)).openapi()
    store.close()
    return document


def _source_files() -> set[str]:
    files = {file for package in PACKAGES for file in (ROOT / package).rglob("*") if file.is_file()}
    kinds = {".py", ".js", ".html", ".css", ".jinja", ".mako"}
    shown = (
        file
        for file in files
        if file.suffix in kinds and file.name != "__init__.py" and file.parent.name != "uplot"
    )
    return {file.relative_to(ROOT).as_posix() for file in shown}


def _block(opening: str, closing: str) -> str:
    return README.split(opening, 1)[1].split(closing, 1)[0]


def test_file_map_has_every_file_and_no_other():
    file_map = _block("<summary>Every file in one line</summary>", "</details>")
    mapped = re.findall(rf"^((?:{'|'.join(PACKAGES)})/\S+)  +\S", file_map, re.MULTILINE)

    assert set(mapped) == _source_files()
    assert len(mapped) == len(set(mapped))


@pytest.mark.parametrize("page", PAGES)
def test_files_that_are_named_are_there(page):
    named = re.findall(rf"`((?:{'|'.join(PACKAGES)}|tests)/[\w/]+\.\w+)`", PAGES[page])

    assert named
    assert [name for name in named if not (ROOT / name).is_file()] == []


def test_job_file_is_valid():
    spec = JobSpec.model_validate(yaml.safe_load(_block("```yaml\n", "```")))

    assert spec.task.kind == "choice"


def test_body_of_the_rest_example_is_valid():
    spec = JobSpec.model_validate(json.loads(_block("<<'JSON'\n", "\nJSON")))

    assert spec.name == "sentiment"


def _anchors(text: str) -> set[str]:
    """Of all headings, as a reader of Markdown makes them."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize(("page", "link"), LINKS)
def test_link_leads_to_a_file_and_a_heading_of_it(page, link):
    name, _, heading = link.partition("#")
    target = (ROOT / page).parent / name if name else ROOT / page

    assert target.exists()
    assert not heading or heading in _anchors(target.read_text(encoding="utf-8"))


def _rows(header: str) -> list[list[str]]:
    """The cells of a table without its first two lines, told by the beginning of the first."""
    table = README.split(f"\n{header}", 1)[1].split("\n\n", 1)[0]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in table.splitlines()[2:]]


def _spans(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def _assert_defaults(cell: str, defaults: list[object]) -> None:
    """Plain defaults are in a cell in the order of its fields; of others it says what it likes."""
    told = cell.split(", ")
    for place, default in enumerate(defaults):
        if isinstance(default, bool):
            assert told[place].strip("`") in (("true", "on") if default else ("false", "off")), cell
        elif isinstance(default, int | float):
            assert float(told[place]) == default, cell
        elif isinstance(default, str | Path) and str(default).strip():
            assert told[place] in (f"`{default}`", str(default)), cell


def _models(annotation: object) -> Iterator[type[BaseModel]]:
    """The models in an annotation, also those in lists and unions."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _models(inner)


def _is_collection(field: FieldInfo) -> bool:
    return get_origin(field.annotation) in (tuple, dict)


def _leaves(model: type[BaseModel], above: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Fields of a job file by what the table calls them; those of a list's items are with the list."""
    for name, field in model.model_fields.items():
        models = list(_models(field.annotation))
        if len(models) > 1:  # told apart by their kind
            for member in models:
                yield from _leaves(member, f"{above}{name} {member.model_fields['kind'].default}.")
            continue
        yield above + name, field
        if models and not _is_collection(field):
            yield from _leaves(models[0], f"{above}{name}.")


def _fields(cell: str) -> list[str]:
    """The fields that a row is about: the first by its path, others beside it."""
    before, colon, after = cell.partition("`: `")
    if colon:
        return [f"{' '.join(_spans(before + '`'))}.{name}" for name in _spans("`" + after)]
    found: list[str] = []
    for name in _spans(cell):
        beside = found[-1].rpartition(".")[0] if found and "." not in name else ""
        found.append(f"{beside}.{name}" if beside else name)
    return found


def test_table_of_fields_has_every_field_with_its_default_and_no_other():
    fields = dict(_leaves(JobSpec))
    told: set[str] = set()
    for cell, default, meaning in _rows("| field | default |"):
        names = _fields(cell)
        assert set(names) <= set(fields), cell
        _assert_defaults(default, [fields[name].default for name in names])
        lists = [fields[name] for name in names if get_origin(fields[name].annotation) is tuple]
        items = [model for field in lists for model in _models(field.annotation)]
        assert all(
            f"`{name}`" in meaning or f"{name}: " in meaning for item in items for name in item.model_fields
        )
        told.update(names)

    sections = {name.rpartition(".")[0] for name in fields}
    assert {name for name in fields if not name.endswith(".kind")} - sections <= told


def test_table_of_variables_has_every_setting_with_its_default_and_no_other():
    fields = {f"RANKSIEVE_{name.upper()}": field for name, field in Settings.model_fields.items()}
    told: list[str] = []
    for cell, default, _ in _rows("| variable | default |"):
        names = _spans(cell)
        _assert_defaults(default, [fields[name].default for name in names])
        told += names

    assert sorted(told) == sorted(fields)


def _commands(group: Any, above: str = "") -> dict[str, set[str]]:
    """Every command with its options, short ones too."""
    found: dict[str, set[str]] = {}
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            found |= _commands(command, f"{name} ")
        else:
            found[above + name] = {option for parameter in command.params for option in parameter.opts}
    return found


def test_table_of_commands_has_every_command_with_its_options_and_no_other():
    everywhere = {
        "--data-dir",
        "--root",
        "--url",
        "--api-key",
        "--output",
    }  # told below the table, and -o in it
    commands = _commands(typer.main.get_command(app))
    groups = {name.split()[0] for name in commands if " " in name}
    told: set[str] = set()
    for cell, _ in _rows("| command | |"):
        group = ""
        for span in _spans(cell):
            words = span.removeprefix("ranksieve ").split()
            if words[0] in groups:
                group = f"{words.pop(0)} "
            command = group + words[0]
            options = set(re.findall(r"(?<!\S)\[?(-[-\w]+)", span))
            taken = {option for option in commands[command] if option.startswith("-")}
            assert taken - everywhere - {"-o"} <= options <= taken, command
            told.add(command)

    assert told == set(commands)


def test_table_of_routes_has_every_route_with_its_query_and_no_other(openapi):
    there = {
        (method.upper(), re.sub(r"{\w+}", "{}", path)): {
            one["name"] for one in operation.get("parameters", []) if one["in"] == "query"
        }
        for path, methods in openapi["paths"].items()
        for method, operation in methods.items()
    }
    told: set[tuple[str, str]] = set()
    for cell, _ in _rows("| route | |"):
        methods: list[str] = []
        path = ""
        for span in _spans(cell):
            method, _, url = span.rpartition(" ")
            if not url.startswith("/"):
                methods = [*methods, url] if not path else [url]
                path = ""
                continue
            if method:
                methods = [*methods, method] if not path else [method]
            plain, _, query = url.partition("?")
            path = plain if method else path.rpartition("/")[0] + plain
            for one in methods:
                route = (one, re.sub(r"{\w+}", "{}", path))
                names = {part.partition("=")[0] for part in query.split("&") if part}
                assert names <= there.get(route, set()), span
                told.add(route)

    assert told - {("GET", "/docs"), ("GET", "/openapi.json")} == set(there)


def test_benchmark_commands_name_scripts_that_exist():
    shown = "".join(PAGES.values())
    scripts = set(re.findall(r"tests/benchmarks/(\w+\.py)", shown)) | set(re.findall(r"\| `(\w+\.py)", shown))

    assert scripts
    assert all((ROOT / "tests/benchmarks" / script).is_file() for script in scripts)
