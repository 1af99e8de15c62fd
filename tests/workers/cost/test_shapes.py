"""Models and jobs as numbers, against real tiny ones and public counts."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import AutoConfig, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from ranksieve.search.errors import InputError
from ranksieve.workers.cost.shapes import Load, load_of, size_of, uniform_load
from ranksieve.workers.factors.grams import gram_numbers
from ranksieve.workers.factors.passes import passes
from ranksieve.workers.forward.batches import make_batches
from ranksieve.workers.forward.generation import answers
from ranksieve.workers.model.matrices import find_matrices, linear_params
from ranksieve.workers.types.plan import EncodedTask, Example


@pytest.mark.parametrize("tied", [False, True])
def test_counts_are_those_of_the_model(make_llama: Callable[..., LlamaForCausalLM], tied: bool) -> None:
    model = make_llama(tie_word_embeddings=tied)
    size = size_of(model.config)
    assert size.matrices == find_matrices(model)
    assert size.total_params == sum(parameter.numel() for parameter in model.parameters())
    assert size.block_params == linear_params(model)
    assert (size.layers, size.hidden, size.vocabulary, size.attention) == (2, 32, 48, 32)


def test_other_names_of_the_same_numbers(make_gpt2: Callable[[], GPT2LMHeadModel]) -> None:
    size = size_of(make_gpt2().config)
    assert (size.layers, size.hidden, size.vocabulary, size.attention) == (2, 24, 48, 24)


def test_layers_whose_heads_differ_count_as_the_largest() -> None:
    sizes = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 6, "vocab_size": 100}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "global_head_dim": 32}
    config = AutoConfig.for_model("gemma4_text", **sizes, **heads, vocab_size_per_layer_input=100)
    assert {layer.head_dim for layer in config.per_layer_config} == {16, 32}
    size = size_of(config)
    assert (size.attention, size.cached) == (4 * 32, 2 * 32 * 2)


def test_a_token_runs_through_the_experts_that_it_is_sent_to(make_mixture: Callable[..., Any]) -> None:
    model = make_mixture(experts=8)
    size = size_of(model.config)
    assert size.matrices == find_matrices(model)
    experts = [matrix for matrix in size.matrices if ".experts." in matrix.name]
    assert size.reach == {matrix.name: 2 / 8 for matrix in experts}
    assert size.running_params == linear_params(model) - 0.75 * sum(m.dense_params for m in experts)
    wide = sum(m.in_features + m.out_features for m in size.matrices if m not in experts)
    assert size.activations == wide + 2 / 8 * sum(m.in_features + m.out_features for m in experts)
    for per_token, share in (([1, 4], 4 / 8), (None, 1.0)):  # by layer; not at all
        vars(model.config)["num_experts_per_tok"] = per_token
        assert set(size_of(model.config).reach.values()) == {share}


def test_patterns_choose_matrices_but_not_what_runs(make_llama: Callable[..., LlamaForCausalLM]) -> None:
    config = make_llama().config
    some, every = size_of(config, ("mlp.*",)), size_of(config)
    assert {matrix.kind for matrix in some.matrices} == {"mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"}
    assert replace(some, matrices=()) == replace(every, matrices=())
    with pytest.raises(InputError, match="no matrix matches"):
        size_of(config, ("nothing",))


def test_a_large_model_is_sized_without_its_weights() -> None:
    sizes = {"hidden_size": 4096, "intermediate_size": 14_336, "num_hidden_layers": 32, "vocab_size": 128_256}
    size = size_of(LlamaConfig(**sizes, num_attention_heads=32, num_key_value_heads=8))  # type: ignore[arg-type]
    assert size.total_params == 8_030_261_248  # what the model card of Llama-3.1-8B rounds to 8.03 B
    # Grams: 2 x 8 bytes x (5 x 4096 wide, 2 x 1024 wide) for each of 32 layers, little more than a triangle of each
    whole = 16 * (5 * gram_numbers(4096) + 2 * gram_numbers(1024)) * 32
    assert 0.5 < whole / (16 * (5 * 4096**2 + 2 * 1024**2) * 32) < 0.53
    assert len(passes(size.matrices, whole)) == 1
    assert len(passes(size.matrices, whole - 1)) == 2


@pytest.mark.parametrize(("kind", "split"), [("lm", "search"), ("choice", "calibration")])
def test_a_load_is_that_of_the_batches(make_task: Callable[..., EncodedTask], kind: str, split: str) -> None:
    task = make_task(kind)
    load = load_of(task, split, 40)
    batches = make_batches(task.splits[split], 3, 40)
    assert load.batches == len(batches) > 1
    assert load.tokens == sum(batch.ids_BL.numel() for batch in batches)
    assert load.squares == sum(len(b.ids_BL) * b.ids_BL.shape[1] ** 2 for b in batches)
    assert load.reads == sum(
        len(set(zip(b.row_N.tolist(), b.position_N.tolist(), strict=True))) for b in batches
    )
    assert load.largest_tokens == max(b.ids_BL.numel() for b in batches)
    assert load.decoded == 0
    assert load_of(task, split, 40, stop=4).tokens < load.tokens


def numbers_in(cache: Any) -> int:
    return sum(layer.keys.numel() + layer.values.numel() for layer in cache.layers)


@pytest.mark.parametrize("kind", ["choice", "generate"])
@torch.inference_mode()
def test_a_load_counts_what_is_read_where_prompts_are_read_once(
    make_llama: Callable[..., LlamaForCausalLM],
    make_task: Callable[..., EncodedTask],
    tokenizer: PreTrainedTokenizerFast,
    kind: str,
) -> None:
    model, task, shapes, cached = make_llama(), make_task(kind), [], []
    model.register_forward_hook(lambda _, __, out: cached.append(numbers_in(out.cache)))
    embedding = model.get_input_embeddings()
    embedding.register_forward_hook(lambda _, inputs, __: shapes.append(inputs[0].shape))
    examples, new_tokens = task.splits["test"], 4 if kind == "generate" else 0
    for _ in answers(model, tokenizer, examples, 3, 40, new_tokens=new_tokens, write=False):
        pass
    load = load_of(task, "test", 40)
    assert load.tokens == sum(rows * length for rows, length in shapes)
    assert load.batches == len(shapes) > 2
    assert load.decoded == new_tokens * len(examples)
    assert load.steps == new_tokens * load.batches / 2
    assert load_of(task, "calibration", 40).decoded == 0
    size = size_of(model.config)
    estimated = load.largest_cached * size.layers * size.cached
    if kind == "choice":
        assert estimated == max(cached)
    else:  # what answers are written from is kept meanwhile
        assert 1.5 * max(cached) < estimated < 2.5 * max(cached)


def test_imagined_examples_are_like_real_ones_of_that_length(
    make_task: Callable[..., EncodedTask], choice_example: Callable[..., Example]
) -> None:
    examples = tuple(choice_example((5,) * 8, ((6,), (7,))) for _ in range(12))
    task: Any = replace(make_task("choice"), splits={"test": examples})
    assert uniform_load(12, 8, 32) == load_of(task, "test", 32)


def test_amounts_scale_and_the_largest_batch_does_not() -> None:
    one = Load(tokens=10, squares=100, largest_tokens=5)
    assert one.times(3) == Load(tokens=30, squares=300, largest_tokens=5)
    assert one + Load(tokens=1, largest_tokens=7) == Load(tokens=11, squares=100, largest_tokens=7)
