from collections.abc import Callable, Sequence

import pytest
import torch
from transformers import PreTrainedModel

from workers.batches import make_batches
from workers.likelihood import answer_logits, slot_log_likelihoods
from workers.plan import EncodedTask, Example


def naive(model: PreTrainedModel, examples: Sequence[Example], choices: int) -> torch.Tensor:
    """Every answer by itself: no padding, no shared rows, all logits."""
    logp_EC = torch.zeros(len(examples), choices)
    for e, example in enumerate(examples):
        for span in [span for row in example.rows for span in row.spans]:
            whole = torch.tensor([example.prompt_ids + span.ids])
            logp_LV = model(input_ids=whole).logits[0].log_softmax(dim=1)
            start = len(example.prompt_ids)
            for offset, token in enumerate(span.ids):
                logp_EC[e, span.choice] += logp_LV[start + offset - 1, token]
    return logp_EC


class WithoutKeeping(torch.nn.Module):
    """A model whose forward always computes all logits."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, use_cache: bool) -> object:
        return self.model(input_ids=input_ids, use_cache=use_cache)


@pytest.mark.parametrize("kind", ["choice", "lm"])
@pytest.mark.parametrize("keeps", [True, False])
@torch.inference_mode()
def test_batched_equals_one_by_one(
    make_llama: Callable[..., PreTrainedModel], make_task: Callable[..., EncodedTask], kind: str, keeps: bool
) -> None:
    examples = make_task(kind).splits["search"]
    choices = max(example.choices for example in examples)
    model = make_llama()
    runner = model if keeps else WithoutKeeping(model)
    batches = make_batches(examples, choices, batch_tokens=60)
    assert len(batches) > 2
    parts = [
        slot_log_likelihoods(answer_logits(runner, batch), batch, len(examples), choices)  # type: ignore[arg-type]
        for batch in batches
    ]
    torch.testing.assert_close(sum(parts), naive(model, examples, choices), rtol=1e-5, atol=1e-5)


def test_logits_are_float32_whatever_the_model(
    make_llama: Callable[..., PreTrainedModel], make_task: Callable[..., EncodedTask]
) -> None:
    (batch, *_) = make_batches(make_task("lm").splits["test"], 1, batch_tokens=256)
    logits_NV = answer_logits(make_llama().bfloat16(), batch)
    assert logits_NV.dtype == torch.float32
    assert logits_NV.shape == (len(batch.token_N), 48)
