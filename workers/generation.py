"""Greedy answers: prompts of similar length together, padded on the left, decoded by transformers."""

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from workers.plan import Example


def generate_answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[Example],
    max_new_tokens: int,
    batch_tokens: int,
) -> list[str]:
    """Writes the greedy answer to every prompt, in the order of the examples.

    An answer ends at the end-of-sequence token, at a line break, or after `max_new_tokens`.
    """
    answers = [""] * len(examples)
    order = sorted(range(len(examples)), key=lambda index: (len(examples[index].prompt_ids), index))
    start = 0
    while start < len(order):
        size = 1
        while (
            start + size < len(order)
            and (size + 1) * (len(examples[order[start + size]].prompt_ids) + max_new_tokens) <= batch_tokens
        ):
            size += 1
        group = order[start : start + size]
        texts = _generate(model, tokenizer, [examples[index].prompt_ids for index in group], max_new_tokens)
        for index, text in zip(group, texts, strict=True):
            answers[index] = text
        start += size
    return answers


def _generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[tuple[int, ...]],
    max_new_tokens: int,
) -> list[str]:
    length = max(map(len, prompts))
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    pad = 0 if pad is None else pad
    ids_BL = torch.tensor([[pad] * (length - len(ids)) + list(ids) for ids in prompts])
    mask_BL = torch.tensor([[0] * (length - len(ids)) + [1] * len(ids) for ids in prompts])
    out = model.generate(  # type: ignore[operator]
        input_ids=ids_BL.to(model.device),
        attention_mask=mask_BL.to(model.device),
        max_new_tokens=max_new_tokens,
        do_sample=False,
        temperature=None,
        top_p=None,
        top_k=None,
        pad_token_id=pad,
    )
    texts = tokenizer.batch_decode(out[:, length:], skip_special_tokens=True)
    return [text.strip().split("\n", 1)[0].strip() for text in texts]
