import copy
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen3MoeForCausalLM,
    T5Config,
)

from search.errors import InputError
from workers.cache import LOCKS, FolderCache
from workers.experts_module import stacked_experts
from workers.matrices import find_matrices
from workers.models import (
    choose_dtype,
    context_length,
    empty_model,
    head_folder,
    load_config,
    load_prepared,
    load_tokenizer,
    prepare_model,
    resolve,
    weights_digest,
)
from workers.plan import ModelSource

CPU = torch.device("cpu")
TILE = 8
IDS_BL = torch.tensor([[4, 9, 30, 12, 7]])


@pytest.fixture
def folder(llama_folder: Path, tmp_path: Path) -> Path:
    """A copy of the saved model that a test may break."""
    return Path(shutil.copytree(llama_folder, tmp_path / "model"))


def local(folder: Path, **options: Any) -> ModelSource:
    return ModelSource(kind="path", location=str(folder), **options)


def refused(source: ModelSource) -> InputError:
    with pytest.raises(InputError) as caught:
        resolve(source)
    return caught.value


@pytest.mark.parametrize("name", ["float32", "bfloat16", "float16"])
def test_dtype_by_name(name: Any) -> None:
    assert choose_dtype(name, CPU) is getattr(torch, name)


@pytest.mark.parametrize(
    ("capability", "expected"),
    [
        ({"avx512_bf16": True}, torch.bfloat16),
        ({"amx_bf16": True}, torch.bfloat16),
        ({"bf16": True}, torch.bfloat16),
        ({"avx2": True, "avx512_bf16": False}, torch.float32),
    ],
)
def test_dtype_auto_on_a_processor(
    monkeypatch: pytest.MonkeyPatch, capability: dict[str, bool], expected: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capability)
    assert choose_dtype("auto", CPU) is expected


@pytest.mark.parametrize(("native", "expected"), [(True, torch.bfloat16), (False, torch.float16)])
def test_dtype_auto_on_a_gpu(monkeypatch: pytest.MonkeyPatch, native: bool, expected: torch.dtype) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: native)
    assert choose_dtype("auto", torch.device("cuda")) is expected


def test_folder_resolves_to_itself(folder: Path) -> None:
    source = local(folder)
    assert resolve(source) is source


def test_folder_without_config_is_refused(tmp_path: Path) -> None:
    error = refused(local(tmp_path))
    assert (error.field, "expected a folder with config.json" in error.message) == ("model.path", True)


def test_pickled_weights_are_refused(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    assert "pickled ones are never loaded" in refused(local(folder)).message


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json", "nested.json"])
def test_code_that_comes_with_a_model_is_refused(folder: Path, file: str) -> None:
    path = folder / file
    values = json.loads(path.read_text()) if path.exists() else {}
    auto_map = {"auto_map": {"AutoModelForCausalLM": "modeling_evil.Evil"}}
    path.write_text(json.dumps(values | (auto_map if path.exists() else {"parts": [{"text": auto_map}]})))
    assert f"{file} has an auto_map" in refused(local(folder)).message


def test_broken_json_is_refused(folder: Path) -> None:
    (folder / "generation_config.json").write_text("{")
    assert "generation_config.json is not valid JSON" in refused(local(folder)).message


def test_what_is_no_gguf_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    source = ModelSource(kind="gguf", location=str(file))
    assert "no such file" in refused(source).message
    file.write_bytes(b"PK\x03\x04 a zip file")
    error = refused(source)
    assert (error.field, "does not start with GGUF" in error.message) == ("model.gguf", True)


def test_config_tokenizer_and_empty_model(llama_folder: Path, make_llama: Callable[..., Any]) -> None:
    config = load_config(local(llama_folder))
    model = empty_model(config)
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    assert find_matrices(model) == find_matrices(make_llama())
    assert load_tokenizer(local(llama_folder)).convert_tokens_to_ids("w0") == 3
    assert context_length(config) == 64
    assert context_length(GPT2Config(n_positions=77)) == 77
    assert context_length(T5Config()) is None


@pytest.mark.parametrize("method", ["gptq", "awq", "bitsandbytes", "compressed-tensors"])
def test_quantized_weights_are_refused(folder: Path, method: str) -> None:
    file = folder / "config.json"
    config = json.loads(file.read_text()) | {"quantization_config": {"quant_method": method, "bits": 4}}
    file.write_text(json.dumps(config))
    with pytest.raises(
        InputError, match=rf"model\.path: its weights are quantized \({method}\); expected plain"
    ):
        load_config(ModelSource(kind="path", location=str(folder)))


@pytest.mark.parametrize("capability", [None, (9, 0)], ids=["no GPU", "a GPU that multiplies them"])
def test_quantized_weights_that_can_be_are_made_plain(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int] | None
) -> None:
    plain = load_file(folder / "model.safetensors")
    stored = {name: part for name, weight in plain.items() for name, part in _in_float8(name, weight).items()}
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    file = folder / "config.json"
    quantization = {"quant_method": "fp8", "weight_block_size": [TILE, TILE], "activation_scheme": "dynamic"}
    file.write_text(json.dumps(json.loads(file.read_text()) | {"quantization_config": quantization}))
    if capability is not None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: capability)

    prepared = prepare_model(local(folder, dtype="float32"), CPU, FolderCache(tmp_path / "cache"))

    made = load_file(prepared.folder / "model.safetensors")
    assert made.keys() == plain.keys()
    for name, weight in plain.items():
        assert made[name].dtype == torch.float32
        torch.testing.assert_close(made[name], weight, rtol=0.07, atol=1e-3)  # of four bits
    assert "quantization_config" not in json.loads((prepared.folder / "config.json").read_text())


def _in_float8(name: str, weight_OD: torch.Tensor) -> dict[str, torch.Tensor]:
    """The weight as fp8 checkpoints have it, each tile with a scale; others than projections stay as they are."""
    if not name.endswith("proj.weight"):
        return {name: weight_OD}
    tiles = weight_OD.unfold(0, TILE, TILE).unfold(1, TILE, TILE)
    scale = tiles.abs().amax((2, 3)) / 448
    scales_OD = scale.repeat_interleave(TILE, 0).repeat_interleave(TILE, 1)
    return {name: (weight_OD / scales_OD).to(torch.float8_e4m3fn), f"{name}_scale_inv": scale}


def test_model_of_another_kind_is_refused() -> None:
    with pytest.raises(InputError, match="T5Config is not the configuration of a causal language model"):
        empty_model(T5Config())


@pytest.mark.parametrize("kind", ["bert", "roberta", "electra"])
def test_encoder_is_refused_unless_it_is_a_decoder(kind: str) -> None:
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    with pytest.raises(InputError, match=r"is that of an encoder, which reads the tokens"):
        empty_model(AutoConfig.for_model(kind, **sizes))
    assert empty_model(AutoConfig.for_model(kind, **sizes, is_decoder=True)).config.is_decoder


def test_unknown_architecture_is_refused(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({"model_type": "no-such-model"}))
    with pytest.raises(InputError, match=r"model\.path: cannot read the model's configuration"):
        load_config(local(folder))


def test_missing_tokenizer_is_refused(folder: Path) -> None:
    for file in folder.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(InputError, match=r"model\.path: cannot read the model's tokenizer"):
        load_tokenizer(local(folder))


def test_digest_follows_content(llama_folder: Path, folder: Path) -> None:
    digest = weights_digest(local(folder))
    assert digest == weights_digest(local(llama_folder))
    (folder / "notes.md").write_text("not a part of the model")
    assert digest == weights_digest(local(folder))
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "model.safetensors").write_bytes(weights)
    assert digest != weights_digest(local(folder))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_prepared_model_is_the_model(
    llama_folder: Path, make_llama: Callable[..., LlamaForCausalLM], tmp_path: Path, dtype: Any
) -> None:
    source = local(llama_folder, dtype=dtype)
    prepared = prepare_model(source, CPU, FolderCache(tmp_path))
    assert (prepared.dtype, prepared.digest) == (dtype, weights_digest(source))
    model = load_prepared(prepared.folder, CPU)
    assert model.dtype is getattr(torch, dtype)
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    expected = make_llama().state_dict()
    assert all(value.equal(expected[name].to(value.dtype)) for name, value in model.state_dict().items())
    assert load_prepared(prepared.folder, CPU, torch.float32).dtype is torch.float32
    tokenizer = load_tokenizer(local(prepared.folder))
    assert tokenizer.pad_token_id == tokenizer.eos_token_id == 2


def test_experts_that_are_worked_on_are_taken_apart_and_others_stay(
    make_mixture: Callable[..., Any], tmp_path: Path
) -> None:
    config = make_mixture().config
    Qwen3MoeForCausalLM(config).save_pretrained(tmp_path)
    matrices = find_matrices(empty_model(config), include=["self_attn.*", "1.mlp.experts.2.down"])
    assert stacked_experts(load_prepared(tmp_path, CPU, matrices=matrices)) == ["model.layers.0.mlp.experts"]
    assert len(stacked_experts(load_prepared(tmp_path, CPU))) == 2
    worked_on = load_prepared(tmp_path, CPU, matrices=matrices)
    assert not any(module.training for module in worked_on.modules())
    assert not any(parameter.requires_grad for parameter in worked_on.parameters())


def test_prepared_model_is_written_once_per_dtype(llama_folder: Path, tmp_path: Path) -> None:
    cache, source = FolderCache(tmp_path), local(llama_folder, dtype="float32")
    first = prepare_model(source, CPU, cache)
    written = (first.folder / "model.safetensors").stat().st_mtime_ns
    assert prepare_model(source, CPU, cache) == first
    assert (first.folder / "model.safetensors").stat().st_mtime_ns == written
    assert prepare_model(replace(source, dtype="bfloat16"), CPU, cache).folder != first.folder


@pytest.mark.parametrize("damage", ["cut", "other widths", "incomplete"])
def test_damaged_weights_are_refused(folder: Path, tmp_path: Path, damage: str) -> None:
    file = folder / "model.safetensors"
    tensors = load_file(file)
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:-100])
    elif damage == "other widths":
        save_file({name: tensor[:5].clone() for name, tensor in tensors.items()}, file, {"format": "pt"})
    else:
        del tensors["model.layers.1.mlp.up_proj.weight"]
        save_file(tensors, file, {"format": "pt"})
    message = (
        "1 weights are not in the files, model.layers.1.mlp.up_proj" if damage == "incomplete" else "load"
    )
    cache = FolderCache(tmp_path / "cache")
    with pytest.raises(InputError, match=message) as caught:
        prepare_model(local(folder), CPU, cache)
    assert caught.value.field == "model.path"
    assert [entry.name for entry in (tmp_path / "cache").iterdir() if entry.is_dir()] == [LOCKS]


def test_tied_head_is_not_missing(
    make_gpt2: Callable[[], GPT2LMHeadModel], tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    model = make_gpt2()
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    source = local(tmp_path / "model", dtype="float32")
    loaded = load_prepared(prepare_model(source, CPU, FolderCache(tmp_path / "cache")).folder, CPU)
    torch.testing.assert_close(loaded(IDS_BL).logits, model(IDS_BL).logits)


@torch.inference_mode()
def test_gguf_becomes_the_same_model(make_llama: Callable[..., LlamaForCausalLM], tmp_path: Path) -> None:
    model, file = make_llama(), tmp_path / "tiny.gguf"
    write_gguf(model, file)
    source = ModelSource(kind="gguf", location=str(file), dtype="float32")
    assert resolve(source) is source
    assert find_matrices(empty_model(load_config(source))) == find_matrices(model)
    cache = FolderCache(tmp_path / "cache")
    head = head_folder(source, cache)
    assert find_matrices(empty_model(load_config(head))) == find_matrices(model)
    assert load_tokenizer(head).get_vocab() == load_tokenizer(source).get_vocab()
    prepared = prepare_model(source, CPU, cache)
    loaded = load_prepared(prepared.folder, CPU)
    torch.testing.assert_close(loaded(IDS_BL).logits, model(IDS_BL).logits, rtol=1e-4, atol=1e-4)
    assert "quantization_config" not in json.loads((prepared.folder / "config.json").read_text())


def test_a_gguf_file_is_read_without_what_lies_beside_it(
    make_llama: Callable[..., LlamaForCausalLM], tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    write_gguf(make_llama(), tmp_path / "tiny.gguf")
    source = ModelSource(kind="gguf", location=str(tmp_path / "tiny.gguf"))
    alone = load_tokenizer(source).get_vocab()

    other = copy.deepcopy(tokenizer)
    other.add_tokens(["another's"])
    other.save_pretrained(tmp_path)

    assert load_tokenizer(source).get_vocab() == alone


def write_gguf(model: LlamaForCausalLM, file: Path) -> None:
    config = model.config
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(10_000.0)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    tokens = ["<unk>", "<s>", "</s>", "ab", *map(chr, range(97, 97 + config.vocab_size - 4))]
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.NORMAL] * len(tokens))
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for name, tensor in model.state_dict().items():
        kind = name.split(".")[-2]
        if kind in heads:  # gguf interleaves the two halves of a rotated head
            tensor = tensor.view(heads[kind], 2, -1, tensor.shape[1]).swapaxes(1, 2).reshape(tensor.shape)
        target = names.get_name(name, try_suffixes=(".weight",))
        assert target is not None
        writer.add_tensor(target, tensor.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "mpt", "d_model": 32, "n_heads": 4, "n_layers": 10**9},
        {"model_type": "xglm", "d_model": 32, "attention_heads": 4, "num_layers": 10**9},
        {"model_type": "mixtral", "num_hidden_layers": 1, "num_local_experts": 10**9},
    ],
)
def test_a_model_of_modules_without_end_is_refused(
    config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.models.MOST_WEIGHTS", 1000)
    with pytest.raises(InputError, match="asks for far too many modules"):
        empty_model(AutoConfig.for_model(**config))
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("blocks", [10_001, 2**32 - 1])
def test_a_gguf_file_of_blocks_without_end_is_refused(
    make_llama: Callable[..., LlamaForCausalLM], tmp_path: Path, blocks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    add = gguf.GGUFWriter.add_block_count
    monkeypatch.setattr(gguf.GGUFWriter, "add_block_count", lambda writer, _: add(writer, blocks))
    write_gguf(make_llama(), tmp_path / "tiny.gguf")
    with pytest.raises(InputError, match="block_count of at most 10,000") as caught:
        load_config(ModelSource(kind="gguf", location=str(tmp_path / "tiny.gguf")))
    assert caught.value.field == "model.gguf"


def test_a_gguf_file_of_lists_without_end_is_refused(
    make_llama: Callable[..., LlamaForCausalLM], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.models.MOST_ITEMS", 40)
    write_gguf(make_llama(), tmp_path / "tiny.gguf")
    with pytest.raises(InputError, match="at most 40 entries in its lists; got 48"):
        load_config(ModelSource(kind="gguf", location=str(tmp_path / "tiny.gguf")))
