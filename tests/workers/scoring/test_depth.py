from collections.abc import Callable, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray
from transformers import LlamaForCausalLM

from ranksieve.workers.scoring import depth as module
from ranksieve.workers.scoring.depth import INTERCEPT, PENALTY, needed_blocks
from ranksieve.workers.types.plan import Example

RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 3, 120)


def told(share: float) -> NDArray[np.float32]:
    """Return states of which a share tells its label."""
    state_EH = RNG.normal(size=(len(LABELS), 6))
    known = np.arange(len(LABELS)) < share * len(LABELS)
    state_EH[known, LABELS[known]] += 20
    return state_EH.astype(np.float32)


@pytest.fixture
def examples(choice_example: Callable[..., Example]) -> Sequence[Example]:
    return [choice_example((4, 9), ((5,), (6,), (7,)), int(label)) for label in LABELS]


@pytest.mark.parametrize(
    ("shares", "blocks"),
    [
        ([0, 0.5, 0.97, 1], 3),
        ([1, 1, 1, 1], 1),
        ([0, 0, 0, 1], 4),
        ([0, 0, 0, 0], 4),
        ([0.5, 0.5, 0.2, 0], 1),
    ],
)
def test_blocks_that_tell_no_more_are_not_needed(
    make_llama: Callable[..., LlamaForCausalLM],
    examples: Sequence[Example],
    shares: Sequence[float],
    blocks: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    states = {depth: told(share) for depth, share in enumerate(shares, 1)}
    monkeypatch.setattr(module, "hidden_states", lambda *_: states)
    assert needed_blocks(make_llama(num_hidden_layers=4), examples, 64) == blocks


def test_a_probe_is_judged_on_what_it_was_not_fitted_to() -> None:
    labels_E = LABELS[:40]
    state_EH = (RNG.normal(size=(40, 6)) + 1.5 * np.eye(6)[labels_E]).astype(np.float32)
    x_EH = (state_EH - state_EH.mean(axis=0)) / state_EH.std(axis=0)
    x_EH = np.hstack([x_EH, np.full((40, 1), INTERCEPT**0.5)])
    right = 0
    for one in range(40):
        rest = np.arange(40) != one
        gram_HH = x_EH[rest].T @ x_EH[rest] + PENALTY * 40 * np.eye(7)
        answer_C = x_EH[one] @ np.linalg.solve(gram_HH, x_EH[rest].T @ np.eye(3)[labels_E[rest]])
        right += int(answer_C.argmax() == labels_E[one])
    assert module._right(state_EH, labels_E) == pytest.approx(right / 40)
    assert 0.4 < right / 40 < 0.9


def test_an_answer_that_the_last_word_tells_needs_one_block(
    make_llama: Callable[..., LlamaForCausalLM], choice_example: Callable[..., Example]
) -> None:
    words = [
        (int(word), 5 + int(label)) for word, label in zip(RNG.integers(9, 40, 120), LABELS, strict=True)
    ]
    examples = [
        choice_example(prompt, ((20,), (21,), (22,)), int(label))
        for prompt, label in zip(words, LABELS, strict=True)
    ]
    assert needed_blocks(make_llama(num_hidden_layers=3), examples, 64) == 1
