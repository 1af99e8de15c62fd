"""Nobody runs all benchmarks after every change: what they import is there, and those of synthetic tasks still run."""

import ast
import runpy
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

from ranksieve.api.cli.spec_file import load_spec

FOLDER = Path(__file__).parent / "benchmarks"
SCRIPTS = sorted(FOLDER.rglob("*.py"))


def imported(script: Path) -> Iterator[tuple[str, str]]:
    """Module and name of every import from the project."""
    for node in ast.walk(ast.parse(script.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "ranksieve":
            yield from ((node.module or "", alias.name) for alias in node.names)


def exists(module: str, name: str) -> bool:
    if hasattr(import_module(module), name):
        return True
    try:
        import_module(f"{module}.{name}")
    except ModuleNotFoundError:
        return False
    return True


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_what_a_benchmark_imports_is_there(script: Path) -> None:
    assert [name for name in imported(script) if not exists(*name)] == []


@pytest.mark.parametrize("file", sorted((FOLDER / "tasks").glob("*.yaml")), ids=lambda file: file.stem)
def test_job_file_of_a_benchmark_is_valid(file: Path) -> None:
    assert load_spec(file).name


@pytest.mark.campaign
@pytest.mark.parametrize(
    ("command", "printed"),
    [
        ("search_dispatch.py --parts machinery --evaluations 12 --layers 1", "search, bootstrap, store"),
        (
            "search_dispatch.py --parts utilisation --searches small --actors 1 2 --layers 1",
            "the same as one actor",
        ),
        (
            "search_table.py --synthetic --layers 1 --seeds 0 --shares .3 --drops 5 --budget 3 --methods lagrangian "
            "ranksieve evopress cma-es paper --paper-population 3",
            "| `paper` |",
        ),
    ],
)
def test_benchmarks_of_synthetic_tasks_run(
    command: str, printed: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script, *arguments = command.split()
    monkeypatch.setattr(sys, "argv", [script, *arguments])
    runpy.run_path(str(FOLDER / script), run_name="__main__")
    assert printed in capsys.readouterr().out
