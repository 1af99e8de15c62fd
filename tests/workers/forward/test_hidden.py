from collections.abc import Callable

import numpy as np
import pytest
import torch
from transformers import GPT2LMHeadModel, LlamaForCausalLM

from ranksieve.workers.forward.hidden import hidden_states
from ranksieve.workers.model.matrices import block_list
from ranksieve.workers.types.plan import Example


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
@torch.inference_mode()
def test_states_are_those_of_the_prompts_last_token(
    architecture: str,
    make_llama: Callable[..., LlamaForCausalLM],
    make_gpt2: Callable[[], GPT2LMHeadModel],
    choice_example: Callable[..., Example],
) -> None:
    model = {"llama": make_llama, "gpt2": make_gpt2}[architecture]()
    examples = [choice_example(prompt, ((5,), (6, 7)), 0) for prompt in [(9, 8, 7, 6), (4,), (3, 11, 4)]]
    found = hidden_states(model, [1, 2], examples, batch_tokens=16)
    for index, example in enumerate(examples):
        caught: list[torch.Tensor] = []
        for block in block_list(model)[1]:
            block.register_forward_hook(
                lambda _, __, output, caught=caught: caught.append(
                    output[0] if isinstance(output, tuple) else output
                )
            )
        model(input_ids=torch.tensor([example.prompt_ids]))
        for depth in (1, 2):
            expected = caught[depth - 1][0, -1].numpy()
            np.testing.assert_allclose(found[depth][index], expected, rtol=1e-4, atol=1e-5)
