from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from ranksieve.search.errors import ScoringError
from ranksieve.workers.rivals.classifiers import bag_of_words, hidden_states, probes
from ranksieve.workers.rivals.rival import Setup, whole


@pytest.fixture
def _sklearn() -> None:
    pytest.importorskip("sklearn", reason="needs the extra compare")


def test_hidden_states_are_those_of_the_prompts_last_token(setup: Setup) -> None:
    model, examples = setup.load(), setup.task.splits["search"]
    found = hidden_states(model, [1, 2], examples, batch_tokens=16)
    for index, example in enumerate(examples[:5]):
        caught: list[torch.Tensor] = []
        for block in model.model.layers:
            block.register_forward_hook(lambda _, __, output, caught=caught: caught.append(output))
        model(input_ids=torch.tensor([example.prompt_ids]))
        for depth in (1, 2):
            expected = caught[depth - 1][0, -1].numpy()
            np.testing.assert_allclose(found[depth][index], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("_sklearn")
def test_words_that_tell_the_answer_are_found(setup: Setup) -> None:
    examples = {
        name: tuple(replace(one, prompt_ids=(3 + one.label, *one.prompt_ids)) for one in split)
        for name, split in setup.task.splits.items()
    }
    easy = replace(setup, task=replace(setup.task, splits=examples))
    (rival,) = bag_of_words(easy)
    assert rival.score(whole(easy, "test")).quality.mean() > 0.9
    assert rival.size_bytes > 0


@pytest.mark.usefixtures("_sklearn")
def test_probes_are_smaller_with_fewer_blocks(setup: Setup) -> None:
    names, sizes = [], []
    for rival in probes(setup):
        names.append(rival.name)
        sizes.append(rival.size_bytes)
        assert rival.score(whole(setup, "test")).quality.mean() > 0.55
    assert names == ["linear probe on 2 of 2 blocks", "linear probe on 1 of 2 blocks"]
    assert sizes[1] < sizes[0]


@pytest.mark.usefixtures("_sklearn")
@pytest.mark.parametrize("make", [bag_of_words, probes])
def test_records_of_one_label_are_no_lesson(setup: Setup, make: Callable[[Setup], object]) -> None:
    splits = {
        name: tuple(replace(one, label=0) for one in split) for name, split in setup.task.splits.items()
    }
    with pytest.raises(ScoringError, match="the same label"):
        list(make(replace(setup, task=replace(setup.task, splits=splits))))  # type: ignore[call-overload]
