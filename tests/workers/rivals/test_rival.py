import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from transformers import LlamaForCausalLM

from ranksieve.workers.rivals.rival import Setup, class_scores, stored_bytes
from ranksieve.workers.types.plan import Example


def test_a_classifier_never_chooses_what_it_does_not_know(choice_example: Callable[..., Example]) -> None:
    examples = [choice_example((7, 8), ((5,), (6,), (9,)), label) for label in (0, 2, 1)]
    logp_EK = np.log([[0.75, 0.25], [0.5, 0.5], [0.1, 0.9]])
    scores = class_scores(examples, np.array([0, 2]), logp_EK)
    assert scores.quality.tolist() == [1.0, 0.5, 0.0]
    assert scores.nll_nats.tolist() == pytest.approx([-math.log(0.75), -math.log(0.5), math.inf])
    assert scores.tokens == 6


def test_tied_tensors_are_stored_once(make_llama: Callable[..., LlamaForCausalLM]) -> None:
    tied, untied = (make_llama(tie_word_embeddings=tie) for tie in (True, False))
    assert stored_bytes(untied) - stored_bytes(tied) == 48 * 32 * 4
    assert stored_bytes(tied) == 4 * sum(parameter.numel() for parameter in tied.parameters())


def test_only_answers_that_are_the_same_for_every_record_make_classes(
    make_setup: Callable[..., Setup], choice_example: Callable[..., Example]
) -> None:
    setup = make_setup()
    assert setup.chooses
    assert not make_setup("generate").chooses
    for answers in (((6,), (5,)), ((5,),)):
        other = choice_example((4, 5), answers, 0)
        task = replace(setup.task, splits={**setup.task.splits, "test": (other,)})
        assert not replace(setup, task=task).chooses
