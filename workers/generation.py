"""What a model makes of prompts: how likely it finds the right answers, and what it answers by itself, greedily.

Both go on from one pass over the prompts, which are much longer than answers. Prompts of similar length are read
together, padded on the left, all of each but its last token; what is written is decoded by transformers.

Legend: B prompts of a batch, L padded length, A padded length of the right answers, N tokens of them, V vocabulary,
T tokens so far.
"""

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase, StoppingCriteria, StoppingCriteriaList

from workers.likelihood import Predicted, takes
from workers.plan import Example


def answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[Example],
    max_new_tokens: int,
    batch_tokens: int,
    *,
    write: bool = True,
) -> Iterator[Predicted]:
    """Predicts the right answer of every example, batch by batch.

    Args:
        model: Any causal one.
        tokenizer: Its tokenizer.
        examples: Each with one right answer.
        max_new_tokens: Most that the model writes.
        batch_tokens: Padded tokens of a batch, answers included.
        write: Whether it writes answers of its own, too. They end at the end-of-sequence token, at a line break, or
            after `max_new_tokens`.
    """
    for group in _groups(examples, max_new_tokens, batch_tokens):
        prompts = _Prompts(model, tokenizer, [examples[index].prompt_ids for index in group])
        right = [examples[index].rows[0].spans[0].ids for index in group]
        cache = prompts.read()
        logits_NV = prompts.predict(right, copy.deepcopy(cache) if write else cache)
        texts = prompts.write(cache, max_new_tokens) if write else [None] * len(group)
        yield Predicted(
            examples=tuple(group),
            logits_NV=logits_NV,
            token_N=torch.tensor([token for ids in right for token in ids], device=model.device),
            texts=tuple(texts),
        )


def _groups(examples: Sequence[Example], max_new_tokens: int, batch_tokens: int) -> list[list[int]]:
    """Examples by the length of their prompts, as many together as the budget allows."""
    order = sorted(range(len(examples)), key=lambda index: (len(examples[index].prompt_ids), index))
    groups: list[list[int]] = []
    longest = 0  # answer of the group
    for index in order:
        longest = max(longest, max_new_tokens, examples[index].answer_tokens)
        padded = len(examples[index].prompt_ids) + longest
        if groups and (len(groups[-1]) + 1) * padded <= batch_tokens:
            groups[-1].append(index)
        else:
            groups.append([index])
            longest = max(max_new_tokens, examples[index].answer_tokens)
    return groups


class _Prompts:
    """Prompts of a batch, padded on the left to one length, and a model that reads them."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        prompts: Sequence[tuple[int, ...]],
    ) -> None:
        self._model, self._tokenizer = model, tokenizer
        pads = (tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
        self._pad = next(pad for pad in pads if pad is not None)
        self._length = max(map(len, prompts))
        padding = [self._length - len(ids) for ids in prompts]
        pairs = list(zip(padding, prompts, strict=True))
        self._ids_BL = self._tensor([[self._pad] * count + list(ids) for count, ids in pairs])
        self._mask_BL = self._tensor([[0] * count + [1] * len(ids) for count, ids in pairs])

    def read(self) -> Any:
        """The model's cache of all but the last tokens; None where there are no others, or the model keeps none."""
        if self._length == 1:
            return None
        end = self._length - 1
        out = self._run(self._model.base_model, self._ids_BL[:, :end], self._mask_BL[:, :end], None)
        return getattr(out, "cache", None)

    def predict(self, right: Sequence[tuple[int, ...]], cache: Any) -> torch.Tensor:
        """Logits that predict each token of the right answers, N×V, float32. What it reads is added to the cache."""
        longest = max(map(len, right))
        following = [[*ids[:-1], *[self._pad] * (longest - len(ids))] for ids in right]
        ids_BT = torch.cat([self._ids_BL, self._tensor(following)], dim=1)
        real_BA = self._tensor([[1] * len(ids) + [0] * (longest - len(ids)) for ids in right])
        mask_BT = torch.cat([self._mask_BL[:, :-1], real_BA], dim=1)
        read = 0 if cache is None else self._length - 1
        logits_BTV: torch.Tensor = self._run(self._model, ids_BT[:, read:], mask_BT, cache).logits
        return logits_BTV[:, -longest:][real_BA.bool()].float()

    def write(self, cache: Any, max_new_tokens: int) -> list[str]:
        """The model's own answers; they are added to the cache."""
        answers = _Answers(self._tokenizer, self._length)
        out_BT = self._model.generate(  # type: ignore[operator]
            input_ids=self._ids_BL,
            attention_mask=self._mask_BL,
            cache=cache,
            max_new_tokens=max_new_tokens,
            do_sample=False,
            temperature=None,
            top_p=None,
            top_k=None,
            pad_token_id=self._pad,
            stopping_criteria=StoppingCriteriaList([answers]),
        )
        return [text.split("\n", 1)[0].strip() for text in answers.texts(out_BT)]

    def _run(self, model: torch.nn.Module, ids_BT: torch.Tensor, mask_BT: torch.Tensor, cache: Any) -> Any:
        """Reads the last tokens of what the mask covers."""
        position_BT = (mask_BT.cumsum(dim=1) - 1).clamp(min=0)[:, -ids_BT.shape[1] :]
        options = {"position_ids": position_BT} if takes(type(model), "position_ids") else {}
        if cache is not None:
            options["cache"] = cache
        return model(input_ids=ids_BT, attention_mask=mask_BT, use_cache=True, **options)

    def _tensor(self, rows: Sequence[Sequence[int]]) -> torch.Tensor:
        return torch.tensor(rows, dtype=torch.long, device=self._model.device)  # rows may be empty


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
