from pathlib import Path

import pytest
import torch

from ranksieve.workers.factors.grams import GRAM_BLOCK, Grams, GramSum, gram_numbers

CPU = torch.device("cpu")


def rows(count: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def gathered(seed: int, names: tuple[str, ...] = ("a", "b")) -> Grams:
    grams = Grams(tokens=5, answers=2, forward_of={"c": "a"})
    if "b" in names:
        grams.sent, grams.moved = {"b": 4}, {"b": 3}
    for index, name in enumerate(names):
        for sums in (grams.forward, grams.backward):
            sums[name] = GramSum.zeros(7, CPU)
            sums[name].add_rows_(rows(5, 7, seed + index))
    return grams


@pytest.mark.parametrize("width", [1, 7, GRAM_BLOCK, GRAM_BLOCK + 1, 3 * GRAM_BLOCK - 5])
def test_panels_hold_the_whole_gram(width: int) -> None:
    gram = GramSum.zeros(width, CPU)
    first_TK, second_TK = rows(20, width), rows(9, width, seed=1)
    squares = gram.add_rows_(first_TK)
    gram.add_rows_(second_TK.bfloat16())
    assert float(squares) == pytest.approx(float(first_TK.square().sum()), rel=1e-5)
    rows_TK = torch.cat([first_TK, second_TK.bfloat16().float()]).double()
    whole_KK = gram.whole_KK()
    torch.testing.assert_close(whole_KK, rows_TK.T @ rows_TK, rtol=1e-5, atol=1e-5)
    assert whole_KK.equal(whole_KK.T)
    assert len(gram.panels_P) == gram_numbers(width) <= width**2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_rows_of_any_dtype_lose_nothing_in_their_products(dtype: torch.dtype) -> None:
    rows_TK = rows(64, GRAM_BLOCK).to(dtype)
    gram = GramSum.zeros(GRAM_BLOCK, CPU)
    gram.add_rows_(rows_TK, scale=2.25)
    exact_KK = 2.25 * rows_TK.double().T @ rows_TK.double()
    # a thousandth of what a factor rounded to bfloat16 would do
    torch.testing.assert_close(gram.whole_KK(), exact_KK, rtol=1e-5, atol=1e-4)
    assert torch.get_float32_matmul_precision() == "highest"


@pytest.mark.parametrize("odd", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("column", [0, GRAM_BLOCK, GRAM_BLOCK + 1])
def test_an_odd_entry_shows_in_the_squares(odd: float, column: int) -> None:
    rows_TK = rows(4, GRAM_BLOCK + 2)
    rows_TK[2, column] = odd
    assert not torch.isfinite(GramSum.zeros(GRAM_BLOCK + 2, CPU).add_rows_(rows_TK))


def test_sums_are_float64_where_float32_would_lose_them() -> None:
    gram = GramSum.zeros(1, CPU)
    gram.add_rows_(torch.full((1, 1), 2.0**13))
    for _ in range(4):
        gram.add_rows_(torch.ones(1, 1))
    assert float(gram.whole_KK()) == 2.0**26 + 4


def test_adding_either_way_round_gives_the_same_bits() -> None:
    one, other = gathered(0), gathered(10, names=("b", "a"))
    one.add_(gathered(10, names=("b", "a")))
    other.add_(gathered(0))
    assert one.tokens == other.tokens == 10
    assert one.answers == other.answers == 4
    assert one.moved == other.moved == {"b": 6}
    assert one.sent == other.sent == {"b": 8}
    for sums, others in ((one.forward, other.forward), (one.backward, other.backward)):
        assert all(sums[name].panels_P.equal(others[name].panels_P) for name in ("a", "b"))


def test_what_only_one_of_them_has_is_kept() -> None:
    grams = gathered(0, names=("a",))
    grams.add_(gathered(1, names=("b",)))
    assert grams.forward.keys() == {"a", "b"}
    assert grams.moved == {"b": 3}
    assert grams.sent == {"b": 4}


def test_files_hold_the_sums_and_stay_as_they_are(tmp_path: Path) -> None:
    grams = gathered(0)
    grams.save(tmp_path)
    loaded, again = Grams.load(tmp_path), Grams.load(tmp_path)
    loaded.add_(gathered(5))  # in place, on what is mapped from the file
    for grams_again in (again, Grams.load(tmp_path)):
        assert (grams_again.tokens, grams_again.answers) == (5, 2)
        assert grams_again.forward_of == {"c": "a"}
        assert grams_again.moved == {"b": 3}
        assert grams_again.sent == {"b": 4}
        assert all(grams_again.backward[name].panels_P.equal(grams.backward[name].panels_P) for name in "ab")


def test_matrices_that_read_the_same_share_a_sum() -> None:
    grams = gathered(0)
    forward_KK, backward_KK = grams.of("c")
    assert forward_KK is not None
    assert backward_KK is None
    assert forward_KK.equal(grams.forward["a"].whole_KK() / 5)
    assert grams.of("unknown") == (None, None)


def test_gradients_of_an_expert_are_means_over_what_was_sent_to_it() -> None:
    """Else the product of both Grams would be as much too small as few tokens are sent there."""
    grams = gathered(0)
    forward_KK, backward_KK = grams.of("b")
    assert forward_KK is not None
    assert backward_KK is not None
    assert forward_KK.equal(grams.forward["b"].whole_KK() / 5)
    assert backward_KK.equal(grams.backward["b"].whole_KK() / 4)
