"""What errors say of what their users sent."""

import pickle

import pytest

from ranksieve.search.errors import LONGEST_MESSAGE, InputError, shortened


@pytest.mark.parametrize("quoted", ["pattern " * 10**6, "x" * 10**6])
def test_a_message_that_quotes_a_long_value_is_cut_off(quoted: str) -> None:
    error = InputError("model.include", f"no matrix matches {quoted}")

    assert error.message.startswith("no matrix matches")
    assert error.message.endswith(f"… ({18 + len(quoted):,} characters in all)")
    assert len(error.message) <= LONGEST_MESSAGE
    assert str(error) == f"model.include: {error.message}"
    assert pickle.loads(pickle.dumps(error)).message == error.message


def test_no_half_of_a_word_is_left_which_may_be_a_secret() -> None:
    text = "x" * (LONGEST_MESSAGE - 60) + " hf_" + "s" * 100

    assert "hf_" not in shortened(text)
    assert shortened(text[:LONGEST_MESSAGE]) == text[:LONGEST_MESSAGE]
