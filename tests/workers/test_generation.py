import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from workers.batches import make_batches
from workers.generation import answers, read_once
from workers.likelihood import answer_logits
from workers.plan import EncodedTask, Example

NEW = 6


def greedy(model: PreTrainedModel, prompt: tuple[int, ...], end: int) -> list[int]:
    """One token after another, each from a whole forward pass."""
    ids = list(prompt)
    while len(ids) < len(prompt) + NEW:
        token = int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax())
        if token == end:
            break
        ids.append(token)
    return ids[len(prompt) :]


def written(
    model: PreTrainedModel, tokenizer: Any, examples: list[Example], budget: int
) -> tuple[str | None, ...]:
    parts = answers(model, tokenizer, examples, 1, budget, new_tokens=NEW)
    texts = {index: text for part in parts for index, text in zip(part.examples, part.texts, strict=True)}
    return tuple(texts[index] for index in range(len(examples)))


def prompts(text_example: Callable[..., Example]) -> list[Example]:
    rng = random.Random(0)
    return [
        text_example(
            tuple(rng.randrange(3, 48) for _ in range(rng.randint(1, 12))), (4, 9, 7)[: 1 + index % 3]
        )
        for index in range(12)
    ]


@torch.inference_mode()
def test_answers_equal_naive_greedy_decoding_in_any_batching(
    make_llama: Callable[..., PreTrainedModel],
    text_example: Callable[..., Example],
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    model, examples = make_llama(), prompts(text_example)
    expected = [
        tokenizer.decode(greedy(model, e.prompt_ids, tokenizer.eos_token_id), skip_special_tokens=True)
        for e in examples
    ]
    assert len(set(expected)) > 6
    for budget in (1, 50, 10_000):
        assert written(model, tokenizer, examples, budget) == tuple(expected)


def test_answer_ends_at_a_line_break(
    make_llama: Callable[..., PreTrainedModel],
    text_example: Callable[..., Example],
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    class Lines:
        """Decodes everything to two lines."""

        pad_token_id, eos_token_id = None, 2

        def batch_decode(self, rows: torch.Tensor, skip_special_tokens: bool) -> list[str]:
            return [" \n w1 w2 \nw3"] * len(rows)

    model, steps = make_llama(), []
    model.get_output_embeddings().register_forward_hook(lambda *_: steps.append(1))
    assert written(model, Lines(), prompts(text_example)[:2], 50) == ("w1 w2", "w1 w2")
    assert len(steps) == 2, "the right answers, and one step: nothing is written after it"


def test_no_answer_ends_before_the_last_of_its_batch(
    make_llama: Callable[..., PreTrainedModel],
    text_example: Callable[..., Example],
) -> None:
    class Lines:
        """The first answer's first line ends with its second token, that of the other with its fourth."""

        pad_token_id, eos_token_id = None, 2

        def batch_decode(self, rows: torch.Tensor, skip_special_tokens: bool) -> list[str]:
            count = rows.shape[1]
            return ["\n" + "ab\ncd"[: count + 1], "efg\nh"[:count]]

    model, steps = make_llama(), []
    model.get_output_embeddings().register_forward_hook(lambda *_: steps.append(1))
    assert written(model, Lines(), prompts(text_example)[:2], 1000) == ("ab", "efg")
    assert len(steps) == 1 + 4


def test_output_head_never_reads_a_strided_view(
    make_llama: Callable[..., PreTrainedModel],
    text_example: Callable[..., Example],
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    model, read = make_llama(), []
    head = model.get_output_embeddings()
    head.register_forward_hook(lambda _, inputs, __: read.append(inputs[0]))
    list(answers(model, tokenizer, prompts(text_example), 1, 10_000, new_tokens=NEW))
    right = sum(row.reads for example in prompts(text_example) for row in example.rows)
    assert read[0].shape[:2] == (1, right), "all right answers at once"
    assert {len(hidden) for hidden in read[1:]} == {12}, "all prompts at once"
    assert all(hidden.is_contiguous() for hidden in read)


@torch.inference_mode()
def test_all_choices_go_on_from_one_prompt(
    make_llama: Callable[..., PreTrainedModel],
    make_task: Callable[..., EncodedTask],
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    model, task, shapes = make_llama(), make_task("choice"), []
    examples = task.splits["search"]
    assert read_once(task)
    model.base_model.embed_tokens.register_forward_hook(lambda _, inputs, __: shapes.append(inputs[0].shape))
    (part,) = answers(model, tokenizer, examples, 3, 10_000)
    rows = sum(len(example.rows) for example in examples)
    longest = max(len(example.prompt_ids) for example in examples)
    assert shapes == [(len(examples), longest - 1), (rows, 3)]
    assert part.texts == (None,) * len(examples)
    (batch,) = make_batches(examples, 3, 10_000)
    order = batch.slot_N.argsort(stable=True)
    again = part.slot_N.argsort(stable=True)
    assert part.slot_N[again].equal(batch.slot_N[order])
    assert part.token_N[again].equal(batch.token_N[order])
    torch.testing.assert_close(
        part.logits_NV[again], answer_logits(model, batch)[order], rtol=1e-4, atol=1e-4
    )


def test_what_gains_nothing_is_read_row_by_row(make_task: Callable[..., EncodedTask]) -> None:
    one_row = replace(make_task("choice"), splits={"search": make_task("lm").splits["search"]})
    assert not read_once(one_row)
    assert not read_once(make_task("lm"))
    assert read_once(make_task("generate"))


@torch.inference_mode()
def test_prompts_are_read_once(
    make_llama: Callable[..., PreTrainedModel],
    text_example: Callable[..., Example],
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    model, examples, widths = make_llama(), prompts(text_example), []
    longest = max(len(example.prompt_ids) for example in examples)
    model.base_model.embed_tokens.register_forward_hook(
        lambda _, inputs, __: widths.append(inputs[0].shape[1])
    )
    list(answers(model, tokenizer, examples, 1, 10_000, new_tokens=NEW))
    assert widths[:2] == [longest - 1, 3], "all but the last tokens, then those and the right answers"
    assert set(widths[2:]) == {1}
