"""Answers of a model to prompts: likelihoods, and greedily written texts.

Everything continues from one pass over the prompts, which are much longer than answers. Prompts of similar length are
read together, padded on the left, without their last tokens; transformers decodes written answers.

Legend: B prompts of a batch, L padded length, R rows that continue them, N answer tokens, V vocabulary, T tokens so
far.
"""

import copy
import inspect
import logging
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

from ranksieve.workers.forward.batches import grouped, longest_row, make_batches
from ranksieve.workers.forward.likelihood import Predicted, answer_logits, logits_at
from ranksieve.workers.machine.devices import accelerator_fault, lack_of_memory
from ranksieve.workers.model.loading import embeddings_of
from ranksieve.workers.types.plan import EncodedTask, Example, Row

logger = logging.getLogger(__name__)

PROBED, PROBED_TOKENS = 64, 4
"""Examples that three probes are chosen from, and tokens that each writes."""

ROUNDING = 0.1
"""Most that logits may differ, relative to their spread; in bfloat16 they do by a hundredth or two."""


def read_once(task: EncodedTask) -> bool:
    """Return whether reading prompts once helps.

    It does if several rows continue a prompt, or if an answer is written, too.
    """
    examples = (example for split in task.splits.values() for example in split)
    return task.kind == "generate" or any(len(example.rows) > 1 for example in examples)


def answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[Example],
    max_choices: int,
    batch_tokens: int,
    *,
    new_tokens: int = 0,
    write: bool = True,
) -> Iterator[Predicted]:
    """Predict all answers of every example, batch by batch.

    Args:
        model: Any causal one.
        tokenizer: Its tokenizer.
        examples: What to answer.
        max_choices: Most answers of an example.
        batch_tokens: Padded tokens of a batch, answers included.
        new_tokens: Most tokens that the model writes itself, for examples of one row. It ends at its own end of a
            sequence, at the token that ends the examples' answers, and at a line break.
        write: False writes nothing, but keeps room for the tokens, so that batches stay the same.
    """
    write &= new_tokens > 0
    for group in by_prompt(examples, batch_tokens, new_tokens):
        prompts = _Prompts(model, tokenizer, [examples[index] for index in group])
        rows = [(b, row) for b, index in enumerate(group) for row in examples[index].rows]
        cache = prompts.read()
        reads = [
            (r, span.start + 1 - prompts.lengths[b] + offset, token, group[b] * max_choices + span.choice)
            for r, (b, row) in enumerate(rows)
            for span in row.spans
            for offset, token in enumerate(span.ids)
        ]
        row_N, column_N, token_N, slot_N = torch.tensor(reads, device=model.device).T
        yield Predicted(
            examples=tuple(group),
            logits_NV=prompts.go_on(rows, copy.deepcopy(cache) if write else cache, row_N, column_N),
            token_N=token_N,
            slot_N=slot_N,
            texts=tuple(prompts.write(cache, new_tokens)) if write else (None,) * len(group),
        )
        del prompts, cache  # free them before the next batch


@torch.inference_mode()
def goes_on(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, task: EncodedTask, batch_tokens: int
) -> bool:
    """Return whether a model's logits agree with prompts read once; try examples.

    They do not for models that keep a state, which padding changes, and for some that cannot continue a cache with
    several tokens, or write from an earlier one.

    Args:
        model: The dense one.
        tokenizer: Its tokenizer.
        task: Task of the tried examples.
        batch_tokens: Padded tokens of a batch.
    """
    if getattr(model, "_is_stateful", False):
        return False
    examples = _probes(next(iter(task.splits.values())))
    choices = max(example.choices for example in examples)
    whole = [
        (batch.slot_N, answer_logits(model, batch.to(model.device)))
        for batch in make_batches(examples, choices, batch_tokens)
    ]
    new_tokens = min(task.max_new_tokens, PROBED_TOKENS) if task.kind == "generate" else 0
    try:
        parts = list(answers(model, tokenizer, examples, choices, batch_tokens, new_tokens=new_tokens))
    except Exception as error:  # a model's own code may raise anything on a cache that it does not expect
        if lack_of_memory(error) or accelerator_fault(error):
            raise
        logger.info("prompts are read with every answer, since continuing one raised %r", error)
        return False
    once = [(part.slot_N, part.logits_NV) for part in parts]
    apart = [_apart(once, whole)]
    if new_tokens:
        for group in by_prompt(examples, batch_tokens, new_tokens):
            apart += _writing_apart(model, tokenizer, [examples[i] for i in group], new_tokens)
    if not all(difference <= ROUNDING for difference in apart):  # `max` may ignore a NaN
        logger.info(
            "prompts are read with every answer, since continuing one changes the logits by %s", apart
        )
        return False
    return True


def write_alone(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, example: Example, new_tokens: int
) -> str | None:
    """Write a model's answer to one unread prompt; None for no tokens."""
    if not new_tokens:
        return None
    (text,) = _Prompts(model, tokenizer, [example]).write(None, new_tokens)
    return text


def _probes(examples: Sequence[Example]) -> list[Example]:
    """Choose a short, a medium and a long prompt of the first ones."""
    ordered = sorted(examples[:PROBED], key=lambda example: len(example.prompt_ids))
    return [ordered[0], ordered[len(ordered) // 2], ordered[-1]]


def _writing_apart(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, examples: Sequence[Example], new_tokens: int
) -> list[float]:
    """Measure how far logits of writing differ between batched and single prompts.

    One number for each example.

    The tokens themselves are no test: rounding decides between two that are equally likely. While the tokens agree, the
    logits of the next one must agree, too.
    """
    together = _Prompts(model, tokenizer, examples)
    token_BT, logits_BTV = together.steps(together.read(), new_tokens)
    apart = []
    for b, example in enumerate(examples):
        token_T, logits_TV = (
            both[0] for both in _Prompts(model, tokenizer, [example]).steps(None, new_tokens)
        )
        steps = min(len(token_T), token_BT.shape[1])
        differs_T = token_T[:steps] != token_BT[b, :steps]
        same = int(differs_T.int().argmax()) + 1 if differs_T.any() else steps
        apart.append(_difference(logits_BTV[b, :same], logits_TV[:same]))
    return apart


def _apart(*two: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> float:
    """Measure how far the logits of equal answers differ, relative to their spread.

    Both come with their slots.
    """
    return _difference(*(logits_NV[slot_N.argsort(stable=True)] for slot_N, logits_NV in map(_joined, two)))


def _difference(first_NV: torch.Tensor, second_NV: torch.Tensor) -> float:
    varying_NV = second_NV - second_NV.mean(dim=1, keepdim=True)
    return float((first_NV - second_NV).norm() / varying_NV.norm())


def _joined(parts: Sequence[tuple[torch.Tensor, ...]]) -> tuple[torch.Tensor, ...]:
    return tuple(map(torch.cat, zip(*parts, strict=True)))


def by_prompt(examples: Sequence[Example], batch_tokens: int, new_tokens: int) -> list[list[int]]:
    """Group examples by the length of their prompts within the token budget."""
    lengths = [len(example.prompt_ids) for example in examples]
    following = [max(new_tokens, longest_answer(example)) for example in examples]
    return grouped(examples, lengths, following, batch_tokens)


def longest_answer(example: Example) -> int:
    """Return the number of tokens of an example's longest answer."""
    return longest_row(example) - len(example.prompt_ids) + 1


class _Prompts:
    """Prompts of a batch, padded on the left to one length, with their model."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        examples: Sequence[Example],
    ) -> None:
        prompts = [example.prompt_ids for example in examples]
        self._model = model
        self._ends = {example.end for example in examples if example.end is not None}
        self._pad = _padding(tokenizer, model)
        self.lengths = [len(ids) for ids in prompts]
        self._length = max(self.lengths)
        self._answers = _Answers(tokenizer, self._length)
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

    def go_on(
        self, rows: Sequence[tuple[int, Row]], cache: Any, row_N: torch.Tensor, column_N: torch.Tensor
    ) -> torch.Tensor:
        """Return the logits in rows that continue prompts, N×V.

        Args:
            rows: Each with the number of its prompt.
            cache: Result of `read`; used up.
            row_N: Row of each wanted logit.
            column_N: Position of each in its row: 0 is the prompt's last token.
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
        return logits_at(self._model, row_N, position_N, **inputs)

    def write(self, cache: Any, max_new_tokens: int) -> list[str]:
        """Write the model's own answers.

        Args:
            cache: Result of `read`; used up. None to read the prompts first.
            max_new_tokens: Most tokens of an answer.
        """
        ids_BT = self._generated(cache, max_new_tokens).sequences
        return [text.split("\n", 1)[0].strip() for text in self._answers.texts(ids_BT)]

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
                stopping_criteria=StoppingCriteriaList([self._answers]),
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
