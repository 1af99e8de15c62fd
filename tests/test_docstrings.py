"""First lines of docstrings are short enough to be read at a glance."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("search", "workers", "service", "api")
LONGEST = 80
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def test_first_lines_are_short() -> None:
    files = [file for package in PACKAGES for file in sorted((ROOT / package).rglob("*.py"))]
    assert files
    assert [line for file in files for line in _too_long(file)] == []


def _too_long(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, DOCUMENTED) and (docstring := ast.get_docstring(node)):
            first = docstring.partition("\n")[0]
            if len(first) > LONGEST:
                yield f"{file.relative_to(ROOT)}:{node.body[0].lineno}: {len(first)} characters: {first}"
