import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from gguf_file import save_gguf
from safetensors.torch import load_file, save_file
from transformers import LlamaForCausalLM, Qwen3MoeForCausalLM

from ranksieve.search.errors import InputError
from ranksieve.workers.cache.checksums import Checksums
from ranksieve.workers.cache.folders import CHECKSUMS, LOCKS, FolderCache
from ranksieve.workers.model.experts import stacked_experts
from ranksieve.workers.model.loading import choose_dtype, load_prepared, prepare_model
from ranksieve.workers.model.matrices import find_matrices
from ranksieve.workers.model.sources import (
    empty_model,
    head_folder,
    load_config,
    load_tokenizer,
    resolve,
    weights_digest,
)
from ranksieve.workers.types.plan import ModelSource

CPU = torch.device("cpu")
TILE = 8
IDS_BL = torch.tensor([[4, 9, 30, 12, 7]])


def local(folder: Path, **options: Any) -> ModelSource:
    return ModelSource(kind="path", location=str(folder), **options)


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


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_prepared_model_is_the_model(
    llama_folder: Path, make_llama: Callable[..., LlamaForCausalLM], tmp_path: Path, dtype: Any
) -> None:
    source = local(llama_folder, dtype=dtype)
    prepared = prepare_model(source, CPU, FolderCache(tmp_path))
    assert (prepared.dtype, prepared.digest) == (dtype, weights_digest(source, Checksums(tmp_path)))
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
        "1 weights are missing in the files, such as model.layers.1.mlp.up_proj"
        if damage == "incomplete"
        else "load"
    )
    cache = FolderCache(tmp_path / "cache")
    with pytest.raises(InputError, match=message) as caught:
        prepare_model(local(folder), CPU, cache)
    assert caught.value.field == "model.path"
    assert {entry.name for entry in (tmp_path / "cache").iterdir() if entry.is_dir()} == {LOCKS, CHECKSUMS}


@torch.inference_mode()
def test_gguf_becomes_the_same_model(make_llama: Callable[..., LlamaForCausalLM], tmp_path: Path) -> None:
    model, file = make_llama(), tmp_path / "tiny.gguf"
    save_gguf(model, file)
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
