from pathlib import Path

import pytest

from ranksieve.search.errors import NotFoundError
from ranksieve.search.space.matrix import MatrixShape
from ranksieve.service.job import matrices


def shape(name: str, layer: int) -> MatrixShape:
    return MatrixShape(name=name, out_features=8, in_features=4, layer=layer, kind=name.rpartition(".")[2])


MODEL = [
    shape("model.layers.0.self_attn.q_proj", 0),
    shape("model.layers.0.mlp.up_proj", 0),
    shape("model.layers.10.self_attn.q_proj", 10),
    shape("odd", 10),
]


def test_matrices_are_kept_in_their_order(tmp_path: Path) -> None:
    matrices.keep(tmp_path, MODEL)

    assert matrices.kept(tmp_path) == MODEL
    assert [file.name for file in tmp_path.iterdir()] == ["matrices.json"]


def test_a_job_that_kept_none(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="was not loaded"):
        matrices.kept(tmp_path)


def test_a_layer_without_a_matrix_has_a_gap() -> None:
    ranks = {matrix.name: rank for matrix, rank in zip(MODEL, (3, -1, 0, 2), strict=True)}

    assert matrices.by_layer(MODEL, ranks) == (
        [0, 10],
        ["self_attn.q_proj", "mlp.up_proj", "odd"],
        [[3, -1, None], [0, None, 2]],
    )
