import copy
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import (
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    RwkvForCausalLM,
)

from ranksieve.workers.forward.batches import make_batches
from ranksieve.workers.forward.generation import answers, read_once, write_alone
from ranksieve.workers.forward.likelihood import answer_logits
from ranksieve.workers.model.switchable import SwitchableModel
from ranksieve.workers.scoring.scorer import Scorer
from ranksieve.workers.types.metrics import token_f1
from ranksieve.workers.types.plan import EncodedTask, Example
from ranksieve.workers.types.scores import ScoreRequest, Scores

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


def test_answer_ends_at_a_line_break_unless_it_may_have_several_lines(
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
    example = prompts(text_example)[0]
    (part,) = answers(model, Lines(), [example], 1, 50, new_tokens=NEW, several_lines=True)  # type: ignore[arg-type]
    assert part.texts == ("w1 w2 \nw3",)
    assert len(steps) == 2 + 1 + NEW
    assert write_alone(model, Lines(), example, NEW, several_lines=True) == "w1 w2 \nw3"  # type: ignore[arg-type]


@torch.inference_mode()
@pytest.mark.parametrize("own", [2, [2, 0], None])
def test_answer_ends_at_the_token_that_ends_the_tasks_answers(
    own: Any,
    make_llama: Callable[..., PreTrainedModel],
    text_example: Callable[..., Example],
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    """The chat's end of a turn, say, of a model whose configuration names another one, or none."""
    model, examples = make_llama(), prompts(text_example)
    model.generation_config.eos_token_id = own
    ids = [greedy(model, example.prompt_ids, 2) for example in examples]
    whole = next(index for index, tokens in enumerate(ids) if len(set(tokens[:3])) == 3)
    end = ids[whole][2]
    (text,) = written(model, tokenizer, [replace(examples[whole], end=end)], 50)
    assert text == tokenizer.decode(ids[whole][:3])
    assert write_alone(model, tokenizer, replace(examples[whole], end=end), NEW) == text


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


@torch.inference_mode()
@pytest.mark.parametrize(
    "asked",
    [
        {"use_cache": False},
        {"repetition_penalty": 1.5},
        {"no_repeat_ngram_size": 2},
        {"num_beams": 2},
        {"return_dict_in_generate": True},
        {"cache_implementation": "static"},
    ],
    ids=lambda asked: next(iter(asked)),
)
def test_what_a_models_own_configuration_asks_of_generation_changes_no_answer(
    asked: dict[str, Any],
    make_llama: Callable[..., PreTrainedModel],
    text_example: Callable[..., Example],
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    model, examples = make_llama(), prompts(text_example)
    expected = written(model, tokenizer, examples, 50)
    own = model.generation_config = GenerationConfig(eos_token_id=2, **asked)  # type: ignore[no-untyped-call]
    assert written(model, tokenizer, examples, 50) == expected
    assert model.generation_config is own


@torch.inference_mode()
def test_padding_that_the_model_has_no_embedding_for_is_not_taken(
    make_llama: Callable[..., PreTrainedModel],
    text_example: Callable[..., Example],
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    model, examples = make_llama(), prompts(text_example)
    expected = written(model, tokenizer, examples, 10_000)
    padded = copy.deepcopy(tokenizer)
    padded.add_special_tokens({"pad_token": "<pad>"})
    assert padded.pad_token_id == model.config.vocab_size
    assert written(model, padded, examples, 10_000) == expected


@torch.inference_mode()
def test_a_model_with_a_state_writes_what_it_writes_alone(
    make_task: Callable[..., EncodedTask], tokenizer: PreTrainedTokenizerFast, rwkv: RwkvForCausalLM
) -> None:
    task = make_task("generate")
    scorer = Scorer(SwitchableModel(rwkv, (), {}), tokenizer, task, 200)
    examples = task.splits["test"]
    expected = [
        tokenizer.decode(greedy(rwkv, e.prompt_ids, 2)[: task.max_new_tokens], skip_special_tokens=True)
        for e in examples
    ]
    scores = scorer.score(ScoreRequest(ranks=(), split="test", start=0, stop=len(examples)))
    assert isinstance(scores, Scores)
    pairs = zip(expected, examples, strict=True)
    assert list(scores.quality) == [token_f1(text, e.references) for text, e in pairs]
