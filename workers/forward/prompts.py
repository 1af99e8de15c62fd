"""Prompts of a batch, which a model reads once and continues several times.

They are padded on the left and read without their last tokens; transformers decodes written answers.

Legend: B prompts of a batch, L padded length, R rows that continue them, N answer tokens, V vocabulary, T tokens so
far.
"""

import inspect
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from transformers import (
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    StoppingCriteria,
    StoppingCriteriaList,
)

from ranksieve.workers.forward.likelihood import logits_at
from ranksieve.workers.model.loading import embeddings_of
from ranksieve.workers.types.plan import Example, Row


class Prompts:
    """Prompts of a batch, padded on the left to one length, with their model.

    `several_lines`: whether written answers go on behind a line break.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        examples: Sequence[Example],
        *,
        several_lines: bool = False,
    ) -> None:
        prompts = [example.prompt_ids for example in examples]
        self._model = model
        self._ends = {example.end for example in examples if example.end is not None}
        self._pad = _padding(tokenizer, model)
        self.lengths = [len(ids) for ids in prompts]
        self._length = max(self.lengths)
        self._answers = _Answers(tokenizer, self._length)
        self._several_lines = several_lines
        padding = [self._length - length for length in self.lengths]
        pairs = list(zip(padding, prompts, strict=True))
        self._ids_BL = self._tensor([[self._pad] * count + list(ids) for count, ids in pairs])
        self._mask_BL = self._tensor([[0] * count + [1] * len(ids) for count, ids in pairs])

    def read(self) -> Any:
        """Return the model's cache of all but the last tokens.

        None if there are no others, or the model keeps no cache.
        """
        if self._length == 1:
            return None
        end = self._length - 1
        model = self._model.base_model
        inputs = self._inputs(model, self._ids_BL[:, :end], self._mask_BL[:, :end], None)
        return getattr(model(**inputs), "cache", None)

    def continued_logits(
        self,
        rows: Sequence[tuple[int, Row]],
        cache: Any,
        row_N: torch.Tensor,
        column_N: torch.Tensor,
        exact_N: torch.Tensor | None,
    ) -> torch.Tensor:
        """Return the logits in rows that continue prompts, N×V.

        Args:
            rows: Each with the number of its prompt.
            cache: Result of `read`; used up.
            row_N: Row of each wanted logit.
            column_N: Position of each in its row: 0 is the prompt's last token.
            exact_N: As for `logits_at`.
        """
        following = [row.ids[self.lengths[b] :] for b, row in rows]
        longest = 1 + max(map(len, following))
        padded = [[*ids, *[self._pad] * (longest - 1 - len(ids))] for ids in following]
        real = [[1] * (1 + len(ids)) + [0] * (longest - 1 - len(ids)) for ids in following]
        prompt_R = self._tensor([b for b, _ in rows])
        ids_RT = torch.cat([self._ids_BL[prompt_R], self._tensor(padded)], dim=1)
        mask_RT = torch.cat([self._mask_BL[prompt_R, :-1], self._tensor(real)], dim=1)
        if cache is not None:
            cache.reorder_cache(prompt_R)
            ids_RT = ids_RT[:, -longest:]
        position_N = ids_RT.shape[1] - longest + column_N
        inputs = self._inputs(self._model, ids_RT, mask_RT, cache)
        return logits_at(self._model, row_N, position_N, exact_N, **inputs)

    def write(self, cache: Any, max_new_tokens: int) -> list[str]:
        """Write the model's own answers.

        Args:
            cache: Result of `read`; used up. None to read the prompts first.
            max_new_tokens: Most tokens of an answer.
        """
        ids_BT = self._generated(cache, max_new_tokens).sequences
        texts = self._answers.texts(ids_BT)
        return [(text if self._several_lines else text.split("\n", 1)[0]).strip() for text in texts]

    def steps(self, cache: Any, max_new_tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Write answers; return their tokens, B×T, and the logits of each choice, B×T×V."""
        out = self._generated(cache, max_new_tokens, output_logits=True)
        return out.sequences[:, self._length :], torch.stack(out.logits, dim=1).float()

    def _generated(self, cache: Any, max_new_tokens: int, **more: Any) -> Any:
        with _greedily(self._model, max_new_tokens, self._pad, self._ends):
            return self._model.generate(  # type: ignore[operator]
                input_ids=self._ids_BL,
                attention_mask=self._mask_BL,
                **({} if cache is None else {"cache": cache}),
                stopping_criteria=StoppingCriteriaList([] if self._several_lines else [self._answers]),
                return_dict_in_generate=True,
                **more,
            )

    def _inputs(
        self, model: torch.nn.Module, ids_BT: torch.Tensor, mask_BT: torch.Tensor, cache: Any
    ) -> dict[str, Any]:
        """Return the inputs for a model to read the last tokens that the mask covers."""
        inputs = {"input_ids": ids_BT, "attention_mask": mask_BT, "use_cache": True}
        if "position_ids" in inspect.signature(model.forward).parameters:
            inputs["position_ids"] = (mask_BT.cumsum(dim=1) - 1).clamp(min=0)[:, -ids_BT.shape[1] :]
        return inputs if cache is None else {**inputs, "cache": cache}

    def _tensor(self, rows: Sequence[Any]) -> torch.Tensor:
        return torch.tensor(rows, dtype=torch.long, device=self._model.device)  # rows may be empty


def _padding(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> int:
    """Return a token to pad with, which is masked.

    Some tokenizers have one that the model has no embedding for.
    """
    known = embeddings_of(model)
    pads = (tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
    return next(pad for pad in pads if pad is not None and pad < known)


@contextmanager
def _greedily(model: PreTrainedModel, max_new_tokens: int, pad: int, ends: Collection[int]) -> Iterator[None]:
    """Let `generate` take the likeliest token each time.

    It writes up to the model's own end of a sequence, or one of `ends`.

    Other settings of the model's generation config would change the answers, such as penalties of repeated tokens, or
    the cache.
    """
    own = model.generation_config
    eos = own.eos_token_id if isinstance(own.eos_token_id, list) else [own.eos_token_id]
    model.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
        max_new_tokens=max_new_tokens,
        do_sample=False,
        eos_token_id=sorted({*eos, *ends} - {None}) or None,
        pad_token_id=pad,
    )
    try:
        yield
    finally:
        model.generation_config = own


class _Answers(StoppingCriteria):
    """Stopping criterion: each text after its prompt ends with its first line."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, length: int) -> None:
        self._tokenizer, self._length = tokenizer, length

    def texts(self, ids_BT: torch.Tensor) -> list[str]:
        """Decode the texts, without leading blanks."""
        texts = self._tokenizer.batch_decode(ids_BT[:, self._length :], skip_special_tokens=True)
        return [text.lstrip() for text in texts]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **_: Any) -> torch.Tensor:
        return torch.tensor(["\n" in text for text in self.texts(input_ids)], device=input_ids.device)
