"""Greedy answers: prompts of similar length together, padded on the left, decoded by transformers.

Legend: B prompts of a batch, L padded length, T tokens so far.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase, StoppingCriteria, StoppingCriteriaList

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


@contextmanager
def _compact_head(model: PreTrainedModel) -> Iterator[None]:
    """Has the output head read the last positions of several prompts from memory of their own.

    In its first step transformers hands it a view of all positions. Torch would multiply that prompt by prompt, with a
    copy of the head's weights for each: for a small model with a large vocabulary, three times all the rest.
    """
    head = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    if head is None:
        yield
        return
    hook = head.register_forward_pre_hook(lambda _, inputs: (inputs[0].contiguous(), *inputs[1:]))
    try:
        yield
    finally:
        hook.remove()


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
    answers = _Answers(tokenizer, length)
    with _compact_head(model):
        out_BT = model.generate(  # type: ignore[operator]
            input_ids=ids_BL.to(model.device),
            attention_mask=mask_BL.to(model.device),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            temperature=None,
            top_p=None,
            top_k=None,
            pad_token_id=pad,
            stopping_criteria=StoppingCriteriaList([answers]),
        )
    return [text.split("\n", 1)[0].strip() for text in answers.texts(out_BT)]


class _Answers(StoppingCriteria):
    """What follows prompts of a length, each at an end once its first line is complete."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, length: int) -> None:
        self._tokenizer, self._length = tokenizer, length

    def texts(self, ids_BT: torch.Tensor) -> list[str]:
        """From the first character on that is not blank."""
        texts = self._tokenizer.batch_decode(ids_BT[:, self._length :], skip_special_tokens=True)
        return [text.lstrip() for text in texts]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **_: Any) -> torch.Tensor:
        return torch.tensor(["\n" in text for text in self.texts(input_ids)], device=input_ids.device)
