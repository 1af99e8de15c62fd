from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import (
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    RwkvForCausalLM,
)

from ranksieve.workers.forward import agreement
from ranksieve.workers.forward.agreement import continues_prompts
from ranksieve.workers.forward.generation import answers, write_alone
from ranksieve.workers.types.plan import EncodedTask


@torch.inference_mode()
def test_models_that_cannot_go_on_from_prompts_are_told_from_those_that_can(
    make_llama: Callable[..., PreTrainedModel],
    make_task: Callable[..., EncodedTask],
    tokenizer: PreTrainedTokenizerFast,
    rwkv: RwkvForCausalLM,
) -> None:
    llama = make_llama()
    mamba = MambaForCausalLM(
        MambaConfig(vocab_size=48, hidden_size=16, num_hidden_layers=1, state_size=4)
    ).eval()

    class Forgetful(LlamaForCausalLM):
        """Reads what follows a prompt as if it were all."""

        def forward(self, *args: Any, cache: Any = None, **inputs: Any) -> Any:
            return super().forward(*args, **inputs)

    class Surprised(LlamaForCausalLM):
        """Expects no cache."""

        def forward(self, *args: Any, **inputs: Any) -> Any:
            if "cache" in inputs:
                raise IndexError("no such layer")
            return super().forward(*args, **inputs)

    for kind in ("choice", "generate"):
        task = make_task(kind)
        assert continues_prompts(llama, tokenizer, task, 1000)
        assert not continues_prompts(rwkv, tokenizer, task, 1000)
        assert not continues_prompts(mamba, tokenizer, task, 1000)
        for odd in (Forgetful, Surprised):
            model = odd(llama.config).eval()
            model.load_state_dict(llama.state_dict())
            assert not continues_prompts(model, tokenizer, task, 1000)


@torch.inference_mode()
@pytest.mark.parametrize(("noise", "goes"), [(0.03, True), (0.5, False)])
def test_rounding_that_decides_between_two_tokens_is_told_from_another_model(
    noise: float,
    goes: bool,
    make_llama: Callable[..., PreTrainedModel],
    make_task: Callable[..., EncodedTask],
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    llama = make_llama()

    class Rounding(LlamaForCausalLM):
        """Finds ten tokens as likely, nearly, and is off by noise where several prompts are read."""

        def forward(self, input_ids: torch.Tensor, **inputs: Any) -> Any:
            out = super().forward(input_ids=input_ids, **inputs)
            several = input_ids.shape[0] > 1
            generator = torch.Generator().manual_seed(input_ids.shape[0])
            off = torch.randn(out.logits.shape, generator=generator) * noise * out.logits.std()
            likely = torch.zeros_like(out.logits)
            likely[..., 20:30] = 8 * out.logits.std()
            out.logits = out.logits * 0.01 + likely + several * off
            return out

    model = Rounding(llama.config).eval()
    model.load_state_dict(llama.state_dict())
    task = make_task("generate")
    examples = task.splits["test"][:3]
    together = [
        text for part in answers(model, tokenizer, examples, 1, 1000, new_tokens=4) for text in part.texts
    ]
    assert together != [write_alone(model, tokenizer, example, 4) for example in examples]
    assert continues_prompts(model, tokenizer, replace(task, splits={"test": examples}), 1000) is goes


def test_logits_that_are_no_numbers_are_not_near_anything(
    make_llama: Callable[..., LlamaForCausalLM],
    make_task: Callable[..., EncodedTask],
    tokenizer: PreTrainedTokenizerFast,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(agreement, "_writing_apart", lambda *_: [0.0, torch.nan])
    assert not continues_prompts(make_llama(), tokenizer, make_task("generate"), 1000)


def test_a_broken_accelerator_is_not_what_a_model_makes_of_its_cache(
    make_llama: Callable[..., LlamaForCausalLM],
    make_task: Callable[..., EncodedTask],
    tokenizer: PreTrainedTokenizerFast,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(agreement, "answers", fail)
    with pytest.raises(torch.AcceleratorError, match="illegal memory access"):
        continues_prompts(make_llama(), tokenizer, make_task("choice"), 1000)
