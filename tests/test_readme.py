"""The READMEs keep up with the code: the file map is complete, job files are valid, links lead somewhere."""

import json
import re
from pathlib import Path

import pytest
import typer
import yaml

from api.cli import app
from service.settings import Settings
from service.spec import JobSpec

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = {"README.md": README} | {
    name: (ROOT / name).read_text(encoding="utf-8") for name in ("tests/benchmarks/README.md",)
}
LINKS = sorted(
    {(page, link) for page, text in PAGES.items() for link in re.findall(r"\]\((?!https:)([^)]+)\)", text)}
)
PACKAGES = ("api", "service", "workers", "search")


def _source_files() -> set[str]:
    files = {file for package in PACKAGES for file in (ROOT / package).rglob("*") if file.is_file()}
    shown = (
        file for file in files if file.suffix in {".py", ".jinja", ".mako"} and file.name != "__init__.py"
    )
    return {file.relative_to(ROOT).as_posix() for file in shown}


def _block(opening: str, closing: str) -> str:
    return README.split(opening, 1)[1].split(closing, 1)[0]


def test_file_map_has_every_file_and_no_other():
    mapped = re.findall(
        rf"^((?:{'|'.join(PACKAGES)})/\S+)  +\S", _block("<details>", "</details>"), re.MULTILINE
    )

    assert set(mapped) == _source_files()
    assert len(mapped) == len(set(mapped))


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


def test_every_command_and_setting_is_named():
    commands = set(typer.main.get_command(app).commands)
    variables = {f"RANKSIEVE_{name.upper()}" for name in Settings.model_fields}

    assert all(re.search(rf"`(ranksieve )?{command}\b", README) for command in commands)
    assert all(variable in README for variable in variables)


def test_benchmark_commands_name_scripts_that_exist():
    shown = "".join(PAGES.values())
    scripts = set(re.findall(r"tests/benchmarks/(\w+\.py)", shown)) | set(re.findall(r"\| `(\w+\.py)", shown))

    assert scripts
    assert all((ROOT / "tests/benchmarks" / script).is_file() for script in scripts)
