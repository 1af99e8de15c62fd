"""The READMEs are short, their links lead somewhere, and their examples are valid."""

import inspect
import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import typer
import yaml

import ranksieve
from ranksieve.api.cli.main import app
from ranksieve.service.spec import JobSpec

ROOT = Path(__file__).parents[1]
MOST_LINES = {
    "README.md": 250,
    "tests/benchmarks/README.md": 300,
    **{f"{package}/README.md": 150 for package in ("api", "service", "workers", "search")},
}
PAGES = {name: (ROOT / name).read_text(encoding="utf-8") for name in MOST_LINES}
README = PAGES["README.md"]
LINKS = sorted(
    {(page, link) for page, text in PAGES.items() for link in re.findall(r"\]\((?!https:)([^)]+)\)", text)}
)
OBJECTIVES = re.findall(r"\| `(\{kind: .+\})` \|", README)


@pytest.mark.parametrize("page", PAGES)
def test_page_is_short(page):
    assert len(PAGES[page].splitlines()) <= MOST_LINES[page]


def _anchors(text: str) -> set[str]:
    """The anchors of all headings, as a reader of Markdown makes them."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize(("page", "link"), LINKS)
def test_link_leads_to_a_file_and_a_heading_of_it(page, link):
    name, _, heading = link.partition("#")
    target = (ROOT / page).parent / name if name else ROOT / page

    assert target.exists()
    assert not heading or heading in _anchors(target.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", re.findall(r"`([\w./]*test_\w+\.py)`", PAGES["service/README.md"]))
def test_what_holds_the_threat_model_is_there(name):
    assert any((ROOT / folder / name).is_file() for folder in ("tests/api/http", "tests"))


def _block(opening: str, closing: str) -> str:
    return README.split(opening, 1)[1].split(closing, 1)[0]


def test_job_file_is_valid():
    spec = JobSpec.model_validate(yaml.safe_load(_block("```yaml\n", "```")))

    assert spec.task.kind == "choice"


def test_body_of_the_rest_example_is_valid():
    spec = JobSpec.model_validate(json.loads(_block("<<'JSON'\n", "\nJSON")))

    assert spec.name == "sentiment"


def test_python_example_runs(monkeypatch):
    signature, calls = inspect.signature(ranksieve.sieve), []

    def fake(*arguments, **named):
        calls.append(signature.bind(*arguments, **named).arguments)
        return SimpleNamespace(summary="", load=lambda: None)

    monkeypatch.setattr(ranksieve, "sieve", fake, raising=False)
    exec(_block("```python\n", "```"))

    assert calls[0].keys() == {"model", "data", "prompt", "answer", "choices", "max_drop"}


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_objective_is_valid(objective):
    job = yaml.safe_load(_block("```yaml\n", "```"))

    JobSpec.model_validate({**job, "objective": yaml.safe_load(objective)})


def test_objectives_are_found():
    assert len(OBJECTIVES) >= 5


@pytest.mark.parametrize("page", PAGES)
def test_commands_exist(page):
    commands = typer.main.get_command(app).commands
    named = set(re.findall(r"(?:`|^)ranksieve ([a-z]+)", PAGES[page], re.MULTILINE))

    assert named <= set(commands)


@pytest.mark.parametrize("page", ["README.md", "tests/benchmarks/README.md"])
def test_benchmarks_exist(page):
    scripts = set(re.findall(r"`(?:\.venv/bin/python tests/benchmarks/)?(\w+\.py)", PAGES[page]))

    assert scripts
    assert sorted(script for script in scripts if not (ROOT / "tests/benchmarks" / script).is_file()) == []
