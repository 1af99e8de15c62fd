from pathlib import Path

import pytest
import torch
from transformers import GPT2Config, LlamaConfig, LlamaForCausalLM, PreTrainedConfig

from ranksieve.search.space.matrix import DENSE, MatrixShape
from ranksieve.workers.export.quantized import write_rounded
from ranksieve.workers.model.filesize import ENTRY_BYTES, PREFIX_BYTES, Storage, remainder
from ranksieve.workers.model.layers import replace_linears
from ranksieve.workers.model.loading import weight_bytes
from ranksieve.workers.model.matrices import find_matrices
from ranksieve.workers.model.sources import empty_model

LLAMA = LlamaConfig(
    vocab_size=96, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
    num_key_value_heads=1, tie_word_embeddings=True, attention_bias=True, bos_token_id=None, eos_token_id=1,
)  # fmt: skip
WIDE = LlamaConfig(**LLAMA.to_dict() | {"num_key_value_heads": 2, "intermediate_size": 48})
"""All widths are multiples of a group."""

GPT2 = GPT2Config(
    vocab_size=96, n_embd=16, n_layer=2, n_head=2, n_positions=32, bos_token_id=1, eos_token_id=1
)


def written(config: PreTrainedConfig, ranks: dict[str, int], dtype: str, folder: Path) -> int:
    model = empty_model(config)
    model.to_empty(device="cpu")
    model.tie_weights()
    model.to(getattr(torch, dtype))
    replace_linears(model, ranks)
    model.save_pretrained(folder)
    return weight_bytes(folder)


def stored(matrices: tuple[MatrixShape, ...], ranks: dict[str, int], item_bytes: int) -> int:
    return sum(m.price(ranks.get(m.name, DENSE)) * item_bytes for m in matrices)


@pytest.mark.parametrize("config", [LLAMA, GPT2], ids=["tied llama with biases", "gpt2"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("rank", [None, 0, 3, 7])
def test_a_file_is_no_larger_than_what_is_counted_and_hardly_smaller(
    config: PreTrainedConfig, dtype: str, rank: int | None, tmp_path: Path
) -> None:
    matrices = find_matrices(empty_model(config))
    ranks = {} if rank is None else {matrix.name: rank for matrix in matrices}
    rest = remainder(empty_model(config), matrices)
    item_bytes = 4 if dtype == "float32" else 2
    counted = rest.size_bytes(Storage(dtype=dtype)) + stored(matrices, ranks, item_bytes)
    file_bytes = written(config, ranks, dtype, tmp_path)
    assert file_bytes <= counted
    assert counted - file_bytes < rest.header_bytes  # the numbers are exact
    if rank is None:
        dense_bytes = rest.dense_bytes(dtype) + stored(matrices, ranks, item_bytes)
        assert 0 <= file_bytes - dense_bytes < rest.header_bytes


def test_matrices_that_stay_are_counted_with_the_rest() -> None:
    model = empty_model(LLAMA)
    whole, pruned = remainder(model, ()), find_matrices(model, ["mlp.*"])
    rest = remainder(model, pruned)
    assert whole.numbers - rest.numbers == sum(matrix.dense_params for matrix in pruned)
    assert whole.numbers == sum(parameter.numel() for parameter in model.parameters())
    names = sum(len(name) for name in dict(model.named_parameters()))
    tensors = len(dict(model.named_parameters()))
    assert whole.header_bytes == PREFIX_BYTES + tensors * ENTRY_BYTES + names


@pytest.mark.parametrize(
    ("parts", "dtype"), [("_keep_in_fp32_modules", "float16"), ("_keep_in_fp32_modules_strict", "bfloat16")]
)
def test_what_is_kept_in_float32_is_counted_so(
    parts: str, dtype: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As many routers are."""
    monkeypatch.setattr(LlamaForCausalLM, parts, ["embed_tokens", "layernorm"])
    LlamaForCausalLM(LLAMA).save_pretrained(tmp_path / "dense")
    model = LlamaForCausalLM.from_pretrained(tmp_path / "dense", dtype=getattr(torch, dtype))
    assert model.get_input_embeddings().weight.dtype is torch.float32
    model.save_pretrained(tmp_path / "saved")
    rest = remainder(empty_model(LLAMA), ())
    assert 0 <= rest.size_bytes(Storage(dtype=dtype)) - weight_bytes(tmp_path / "saved") < rest.header_bytes


def test_what_is_kept_in_float32_only_beside_float16_is_counted_so_at_most(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(LlamaForCausalLM, "_keep_in_fp32_modules", ["embed_tokens"])
    file_bytes = written(LLAMA, {}, "bfloat16", tmp_path)
    rest = remainder(empty_model(LLAMA), ())
    assert 0 <= file_bytes - rest.dense_bytes("bfloat16") < rest.header_bytes
    assert rest.size_bytes(Storage(dtype="bfloat16")) > file_bytes


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("rank", [None, 0, 16])
@pytest.mark.parametrize("config", [WIDE, GPT2], ids=["tied llama with biases", "gpt2"])
def test_a_file_of_4_bits_is_no_larger_than_what_is_counted_and_hardly_smaller(
    config: PreTrainedConfig, dtype: str, rank: int | None, tmp_path: Path
) -> None:
    stored = Storage(dtype=dtype, bits=4)
    matrices = find_matrices(empty_model(config))
    ranks = {} if rank is None else {matrix.name: rank for matrix in matrices}
    rest = remainder(empty_model(config), matrices)
    written(config, ranks, dtype, tmp_path)
    model = empty_model(config)
    replace_linears(model, ranks)
    write_rounded(model, tmp_path, tmp_path, 4)
    counted = sum(stored.matrix_bytes(matrix, ranks.get(matrix.name, DENSE)) for matrix in matrices)
    counted += rest.size_bytes(stored)
    assert 0 <= counted - weight_bytes(tmp_path) < rest.rounded_header_bytes


def test_what_cannot_be_divided_into_groups_is_counted_whole() -> None:
    matrix = MatrixShape(name="m", out_features=48, in_features=40, layer=0, kind="m")
    stored = Storage(dtype="bfloat16", bits=4)
    assert stored.matrix_bytes(matrix, DENSE) == 48 * 40 * 2
    assert stored.matrix_bytes(matrix, 16) == (48 * 16 // 2 + 48 * 2 + 16) + 16 * 40 * 2
    assert stored.matrix_bytes(matrix, 0) == 0
    assert Storage(dtype="bfloat16").matrix_bytes(matrix, 16) == 2 * matrix.price(16)
