"""What a model makes of prompts: how likely it finds the answers, and what it answers by itself, greedily.

All goes on from one pass over the prompts, which are much longer than answers. Prompts of similar length are read
together, padded on the left, all of each but its last token; what is written is decoded by transformers.

Legend: B prompts of a batch, L padded length, R rows that go on from them, N answer tokens, V vocabulary, T tokens so
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
"""Whether a model can go on from prompts is tried on three of so many examples, and on so many tokens it writes."""

ROUNDING = 0.1
"""Logits may be so far apart, relative to how they vary; in bfloat16 they are by a hundredth or two."""


def read_once(task: EncodedTask) -> bool:
    """Whether something is to be had by it: several rows go on from a prompt, or an answer is written, too."""
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
    """Predicts all answers of every example, batch by batch.

    Args:
        model: Any causal one.
        tokenizer: Its tokenizer.
        examples: What to answer.
        max_choices: Most answers of an example.
        batch_tokens: Padded tokens of a batch, answers included.
        new_tokens: Most tokens that the model writes itself, for examples of one row. It ends at its own end of a
            sequence, at the token that ends the examples' answers, and at a line break, too.
        write: False leaves room for them, so that batches are the same, but nothing is written.
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
        del prompts, cache  # before others are made


@torch.inference_mode()
def goes_on(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, task: EncodedTask, batch_tokens: int
) -> bool:
    """Whether a model makes of prompts that are read once what it makes of whole rows; tried on a few examples.

    Models that keep a state do not, as padding changes it, nor do some that keep a cache but cannot go on from it with
    several tokens, or write from one that was made before.

    Args:
        model: The dense one.
        tokenizer: Its tokenizer.
        task: Whose examples to try it on.
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
    except Exception as error:  # whatever a model's own code makes of a cache that it did not expect
        if lack_of_memory(error) or accelerator_fault(error):
            raise
        logger.info("prompts are read with every answer, as going on from one raised: %r", error)
        return False
    once = [(part.slot_N, part.logits_NV) for part in parts]
    apart = [_apart(once, whole)]
    if new_tokens:
        for group in by_prompt(examples, batch_tokens, new_tokens):
            apart += _writing_apart(model, tokenizer, [examples[i] for i in group], new_tokens)
    if not all(difference <= ROUNDING for difference in apart):  # `max` may pass over what is not a number
        logger.info("prompts are read with every answer, as going on from one is another model: %s", apart)
        return False
    return True


def write_alone(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, example: Example, new_tokens: int
) -> str | None:
    """What a model answers to one prompt that it has not read before; None for no tokens."""
    if not new_tokens:
        return None
    (text,) = _Prompts(model, tokenizer, [example]).write(None, new_tokens)
    return text


def _probes(examples: Sequence[Example]) -> list[Example]:
    """A short, a middling and a long prompt of the first ones."""
    ordered = sorted(examples[:PROBED], key=lambda example: len(example.prompt_ids))
    return [ordered[0], ordered[len(ordered) // 2], ordered[-1]]


def _writing_apart(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, examples: Sequence[Example], new_tokens: int
) -> list[float]:
    """How far each example's logits are apart that a model writes by, from prompts read together and from it alone.

    The tokens themselves do not tell: rounding decides between two that are as likely. As long as they are the same,
    so has to be what the next one is chosen by.
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
    """How far the logits of the same answers are apart, relative to how they vary; both with their slots."""
    return _difference(*(logits_NV[slot_N.argsort(stable=True)] for slot_N, logits_NV in map(_joined, two)))


def _difference(first_NV: torch.Tensor, second_NV: torch.Tensor) -> float:
    varying_NV = second_NV - second_NV.mean(dim=1, keepdim=True)
    return float((first_NV - second_NV).norm() / varying_NV.norm())


def _joined(parts: Sequence[tuple[torch.Tensor, ...]]) -> tuple[torch.Tensor, ...]:
    return tuple(map(torch.cat, zip(*parts, strict=True)))


def by_prompt(examples: Sequence[Example], batch_tokens: int, new_tokens: int) -> list[list[int]]:
    """Examples by the length of their prompts, as many together as the budget has room for their rows."""
    lengths = [len(example.prompt_ids) for example in examples]
    following = [max(new_tokens, longest_answer(example)) for example in examples]
    return grouped(examples, lengths, following, batch_tokens)


def longest_answer(example: Example) -> int:
    """Tokens of an example's longest answer."""
    return longest_row(example) - len(example.prompt_ids) + 1


class _Prompts:
    """Prompts of a batch, padded on the left to one length, and a model that reads them."""

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
        """The model's cache of all but the last tokens; None where there are no others, or the model keeps none."""
        if self._length == 1:
            return None
        end = self._length - 1
        model = self._model.base_model
        inputs = self._inputs(model, self._ids_BL[:, :end], self._mask_BL[:, :end], None)
        return getattr(model(**inputs), "cache", None)

    def go_on(
        self, rows: Sequence[tuple[int, Row]], cache: Any, row_N: torch.Tensor, column_N: torch.Tensor
    ) -> torch.Tensor:
        """Logits in rows that go on from prompts, N×V.

        Args:
            rows: Each with the number of its prompt.
            cache: As `read` left it; used up.
            row_N: Where logits are wanted: in which of the rows,
            column_N: and there at the last token of the prompt, 0, or at which of those that follow.
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
        """The model's own answers.

        Args:
            cache: As `read` left it; used up. None to read the prompts first.
            max_new_tokens: Most of each.
        """
        ids_BT = self._generated(cache, max_new_tokens).sequences
        return [text.split("\n", 1)[0].strip() for text in self._answers.texts(ids_BT)]

    def steps(self, cache: Any, max_new_tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
        """As of `write`, the tokens, B×T, and the logits that each was chosen by, B×T×V."""
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
        """For a model to read the last tokens of what the mask covers."""
        inputs = {"input_ids": ids_BT, "attention_mask": mask_BT, "use_cache": True}
        if "position_ids" in inspect.signature(model.forward).parameters:
            inputs["position_ids"] = (mask_BT.cumsum(dim=1) - 1).clamp(min=0)[:, -ids_BT.shape[1] :]
        return inputs if cache is None else {**inputs, "cache": cache}

    def _tensor(self, rows: Sequence[Any]) -> torch.Tensor:
        return torch.tensor(rows, dtype=torch.long, device=self._model.device)  # rows may be empty


def _padding(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> int:
    """A token to pad with, which is masked; some tokenizers have one that the model has no embedding for."""
    known = embeddings_of(model)
    pads = (tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
    return next(pad for pad in pads if pad is not None and pad < known)


@contextmanager
def _greedily(model: PreTrainedModel, max_new_tokens: int, pad: int, ends: Collection[int]) -> Iterator[None]:
    """Lets `generate` take the likeliest token each time, up to the model's own end of a sequence, or one of `ends`.

    What else the model's generation config asks for would change the answers, as penalties of repeated tokens do, or
    what is made of the cache.
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
    """What follows prompts of a length, each at an end once its first line is complete."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, length: int) -> None:
        self._tokenizer, self._length = tokenizer, length

    def texts(self, ids_BT: torch.Tensor) -> list[str]:
        """From the first character on that is not blank."""
        texts = self._tokenizer.batch_decode(ids_BT[:, self._length :], skip_special_tokens=True)
        return [text.lstrip() for text in texts]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **_: Any) -> torch.Tensor:
        return torch.tensor(["\n" in text for text in self.texts(input_ids)], device=input_ids.device)
