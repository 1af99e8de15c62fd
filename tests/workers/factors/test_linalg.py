import pytest
import torch

from ranksieve.workers.factors.linalg import eigh, square_root


def damped(gram_NN: torch.Tensor, damping: float) -> torch.Tensor:
    return gram_NN + damping * gram_NN.diagonal().mean() * torch.eye(len(gram_NN), dtype=gram_NN.dtype)


def test_square_root_of_a_definite_gram() -> None:
    rows_TN = torch.randn(64, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    gram_NN = rows_TN.T @ rows_TN
    root_NN = square_root(gram_NN, 1e-3)
    torch.testing.assert_close(root_NN @ root_NN.T, damped(gram_NN, 1e-3))


def test_square_root_of_a_rank_one_gram() -> None:
    x_D = torch.randn(6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    root_NN = square_root(x_D.outer(x_D), 1e-6)
    torch.testing.assert_close(root_NN @ root_NN.T, damped(x_D.outer(x_D), 1e-6))
    assert torch.isfinite(torch.linalg.inv(root_NN)).all()


def test_square_root_damps_more_where_less_is_not_enough() -> None:
    gram_NN = torch.diag(torch.tensor([4.0, 2.0, -1e-4], dtype=torch.float64))  # indefinite by rounding
    root_NN = square_root(gram_NN, 1e-6)
    torch.testing.assert_close(root_NN @ root_NN.T, damped(gram_NN, 1e-4), rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match="negative eigenvalues"):
        square_root(torch.diag(torch.tensor([4.0, 1.0, -9.0])), 1e-6)


def test_what_a_library_gives_up_on_is_decomposed_in_double_precision(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    square, lapack = rows.T @ rows, torch.linalg.eigh

    def gives_up(matrix: torch.Tensor) -> object:
        if matrix.dtype == torch.float32:
            raise torch.linalg.LinAlgError("linalg.eigh: the algorithm failed to converge")
        return lapack(matrix)

    monkeypatch.setattr(torch.linalg, "eigh", gives_up)
    values, vectors = eigh(square)

    assert values.dtype == vectors.dtype == torch.float32
    assert torch.allclose(vectors * values @ vectors.T, square, atol=1e-4)
    monkeypatch.setattr(torch.linalg, "eigh", lambda matrix: gives_up(matrix.float()))
    with pytest.raises(torch.linalg.LinAlgError):
        eigh(square.double())
