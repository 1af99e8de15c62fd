"""Stored rows of evidence, and the tables of them."""

import json
import platform
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]
Key = tuple[str, ...]

HERE = Path(__file__).parent


class Rows:
    """Rows of all questions in one file.

    Args:
        file: JSON file; it need not exist.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        stored: list[Row] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else []
        self._rows = {_place(row): row for row in stored}

    def get(self, question: str, key: Key) -> Row | None:
        """Return the row of a question, or None."""
        return self._rows.get((question, *key))

    def put(self, question: str, key: Key, values: Row) -> None:
        """Store a row of this commit and processor."""
        row = {
            "question": question,
            "key": list(key),
            "commit": _commit(),
            "processor": _processor(),
            **values,
        }
        self._rows[_place(row)] = row
        part = self._file.with_name(self._file.name + ".part")
        part.write_text(json.dumps(list(self._rows.values()), indent=1) + "\n", encoding="utf-8")
        part.replace(self._file)


def _place(row: Row) -> Key:
    return (row["question"], *row["key"])


def print_table(
    header: str, found: Sequence[tuple[Key, Row | None]], cells: Callable[[Key, Row], Iterator[str]]
) -> None:
    """Print a table of the rows that are there, and name the others."""
    print(header)
    print("|---" + "|---:" * (header.count("|") - 2) + "|")
    for key, row in found:
        if row is not None:
            print("| " + " | ".join(cells(key, row)) + " |")
    if missing := [" ".join(key) for key, row in found if row is None]:
        print(f"\nmissing: {', '.join(missing)}")


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty"]
    return subprocess.run(command, capture_output=True, text=True, check=True, cwd=HERE).stdout.strip()


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()
