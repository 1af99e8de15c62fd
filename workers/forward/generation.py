"""Answers of a model to prompts: likelihoods, and greedily written texts.

Everything continues from one pass over the prompts, which are much longer than answers. Prompts of similar length are
read together.

Legend: B prompts of a batch, N answer tokens, V vocabulary.
"""

import copy
from collections.abc import Iterator, Sequence

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ranksieve.workers.forward.batches import grouped, longest_row
from ranksieve.workers.forward.likelihood import Predicted
from ranksieve.workers.forward.prompts import Prompts
from ranksieve.workers.types.plan import EncodedTask, Example


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
    several_lines: bool = False,
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
        several_lines: True lets it go on behind a line break.
        write: False writes nothing, but keeps room for the tokens, so that batches stay the same.
    """
    write &= new_tokens > 0
    for group in by_prompt(examples, batch_tokens, new_tokens):
        chosen = [examples[index] for index in group]
        prompts = Prompts(model, tokenizer, chosen, several_lines=several_lines)
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
            logits_NV=prompts.continued_logits(
                rows,
                copy.deepcopy(cache) if write else cache,
                row_N,
                column_N,
                token_N if max_choices > 1 else None,
            ),
            token_N=token_N,
            slot_N=slot_N,
            texts=tuple(prompts.write(cache, new_tokens)) if write else (None,) * len(group),
        )
        del prompts, cache  # free them before the next batch


def write_alone(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    example: Example,
    new_tokens: int,
    *,
    several_lines: bool = False,
) -> str | None:
    """Write a model's answer to one unread prompt; None for no tokens."""
    if not new_tokens:
        return None
    (text,) = Prompts(model, tokenizer, [example], several_lines=several_lines).write(None, new_tokens)
    return text


def by_prompt(examples: Sequence[Example], batch_tokens: int, new_tokens: int) -> list[list[int]]:
    """Group examples by the length of their prompts within the token budget."""
    lengths = [len(example.prompt_ids) for example in examples]
    following = [max(new_tokens, longest_answer(example)) for example in examples]
    return grouped(examples, lengths, following, batch_tokens)


def longest_answer(example: Example) -> int:
    """Return the number of tokens of an example's longest answer."""
    return longest_row(example) - len(example.prompt_ids) + 1
