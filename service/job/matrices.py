"""The matrices of a job's model, kept among its files: what the ranks of a candidate are the ranks of.

A candidate in the store is a list of ranks; their names would be the same in every one of a million.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

from ranksieve.search.errors import NotFoundError
from ranksieve.search.space.matrix import MatrixShape
from ranksieve.service.job.files import write_json

_FILE = "matrices.json"

Value = TypeVar("Value")


def keep(directory: Path, matrices: Sequence[MatrixShape]) -> None:
    """Writes them into a job's folder, in the order of its candidates' ranks."""
    write_json(directory / _FILE, [asdict(matrix) for matrix in matrices])


def kept(directory: Path) -> list[MatrixShape]:
    """Reads them back.

    Raises:
        NotFoundError: The job has not come so far, or was run by a version that did not keep them.
    """
    try:
        text = (directory / _FILE).read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise NotFoundError(f"job {directory.name} has no matrices yet; its model was not loaded") from error
    return [MatrixShape(**values) for values in json.loads(text)]


def by_layer(
    matrices: Sequence[MatrixShape], values: Mapping[str, Value]
) -> tuple[list[int], list[str], list[list[Value | None]]]:
    """What is known of each matrix, its rank for example, as a table.

    Args:
        matrices: Those of the model.
        values: Name of a matrix → its value.

    Returns:
        The layers, L of them; the names of matrices inside a layer, K of them; and L rows of K values, None where a
        layer has no such matrix.
    """
    layers = sorted({matrix.layer for matrix in matrices})
    columns = list(dict.fromkeys(_inside(matrix) for matrix in matrices))
    found = {(matrix.layer, _inside(matrix)): values.get(matrix.name) for matrix in matrices}
    return layers, columns, [[found.get((layer, column)) for column in columns] for layer in layers]


def _inside(matrix: MatrixShape) -> str:
    """A matrix's name inside its layer: `self_attn.q_proj` of `model.layers.3.self_attn.q_proj`."""
    _, _, name = matrix.name.partition(f".{matrix.layer}.")
    return name or matrix.kind
