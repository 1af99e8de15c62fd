"""Rivals of a job, as `ranksieve compare` printed them to a file."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from ranksieve.search.errors import InputError

RivalsFile = Annotated[
    Path | None,
    typer.Option(
        "--rivals",
        metavar="FILE",
        help="Rivals to show beside it, from `ranksieve compare JOB.yaml --json`.",
    ),
]


def read_rivals(file: Path) -> dict[str, Any]:
    """Read the output of `ranksieve compare --json`.

    Raises:
        InputError: The file has something else in it.
    """
    try:
        values = json.loads(file.read_bytes())
    except ValueError as error:
        raise InputError("--rivals", f"{file} is no JSON: {error}") from None
    if not isinstance(values, dict) or not isinstance(values.get("rivals"), list):
        raise InputError("--rivals", f"{file} is not what `ranksieve compare JOB.yaml --json` prints")
    return values


def check_rivals(compared: Mapping[str, Any], job: Mapping[str, Any]) -> None:
    """Check that a job's model and its rivals were scored on the same test records.

    Raises:
        InputError: They were not, or the job has no model that met its test split.
    """
    result = job["result"]
    if not result or "test" not in result["best"]["metric"]:
        raise InputError("--rivals", f"job {job['id']} has no model that met a test split; leave it out")
    records, others = result["data"].get("test"), (compared.get("data") or {}).get("test")
    if records is None or records != others:
        raise InputError(
            "--rivals",
            f"were scored on other test records than job {job['id']}; compare by the file of that job",
        )
