from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from transformers import LlamaForCausalLM

from ranksieve.workers.rivals.dense import dense, eight_bits, four_bits
from ranksieve.workers.rivals.rival import Rival, Setup, whole


def fit_of(setup: Setup, rival: Rival) -> float:
    return float(rival.score(whole(setup, "calibration")).nll_nats.mean())


def test_a_bias_helps_the_dense_model(setup: Setup) -> None:
    bare, helped = dense(setup)
    assert [bare.name, helped.name] == ["dense", "dense, answer bias"]
    assert fit_of(setup, helped) < fit_of(setup, bare)
    assert helped.size_bytes == bare.size_bytes


@pytest.mark.parametrize("kind", ["generate", "lm"])
def test_written_answers_have_no_bias(make_setup: Callable[..., Setup], kind: str) -> None:
    assert [one.name for one in dense(make_setup(kind))] == ["dense"]


def test_fewer_bits_are_smaller_and_nearly_as_good(
    setup: Setup, make_llama: Callable[..., LlamaForCausalLM], tmp_path: Path
) -> None:
    pytest.importorskip("bitsandbytes", reason="needs the extra compare")
    make_llama(hidden_size=128, intermediate_size=128, initializer_range=0.05).save_pretrained(
        tmp_path
    )  # weights fill whole blocks
    setup = replace(setup, folder=tmp_path)
    _, full = dense(setup)
    (eight,), (four,) = eight_bits(setup), four_bits(setup)
    assert four.size_bytes < eight.size_bytes < full.size_bytes
    assert fit_of(setup, eight) == pytest.approx(fit_of(setup, full), abs=0.05)
    assert fit_of(setup, four) == pytest.approx(fit_of(setup, full), abs=0.3)
