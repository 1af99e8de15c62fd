"""Matrices of a job's model, kept in its folder, that ranks refer to.

A candidate in the store is a list of ranks, because names would be the same in each of a million.
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
    """Write the matrices into a job's folder, in the order of candidates' ranks."""
    write_json(directory / _FILE, [asdict(matrix) for matrix in matrices])


def kept(directory: Path) -> list[MatrixShape]:
    """Read the matrices back.

    Raises:
        NotFoundError: The job has not loaded its model yet.
    """
    try:
        text = (directory / _FILE).read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise NotFoundError(f"job {directory.name} has no matrices yet; its model was not loaded") from error
    return [MatrixShape(**values) for values in json.loads(text)]


def by_layer(
    matrices: Sequence[MatrixShape], values: Mapping[str, Value]
) -> tuple[list[int], list[str], list[list[Value | None]]]:
    """Arrange a value of each matrix, such as its rank, as a table.

    Args:
        matrices: Matrices of the model.
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
    """Return a matrix's name inside its layer.

    For example, `self_attn.q_proj` of `model.layers.3.self_attn.q_proj`.
    """
    _, _, name = matrix.name.partition(f".{matrix.layer}.")
    return name or matrix.kind
