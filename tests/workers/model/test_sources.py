import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from gguf_file import save_gguf
from transformers import AutoConfig, GPT2Config, LlamaForCausalLM, PreTrainedTokenizerFast, T5Config

from ranksieve.search.errors import InputError
from ranksieve.workers.cache.checksums import Checksums
from ranksieve.workers.model.matrices import find_matrices
from ranksieve.workers.model.sources import (
    context_length,
    empty_model,
    load_config,
    load_tokenizer,
    resolve,
    weights_digest,
)
from ranksieve.workers.types.plan import ModelSource


def local(folder: Path, **options: Any) -> ModelSource:
    return ModelSource(kind="path", location=str(folder), **options)


def refused(source: ModelSource) -> InputError:
    with pytest.raises(InputError) as caught:
        resolve(source)
    return caught.value


def test_an_adapter_in_place_of_a_model_is_told_its_field(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(
        '{"peft_type": "LORA", "base_model_name_or_path": "org/base"}'
    )
    (tmp_path / "adapter_model.safetensors").write_bytes(b"")
    error = refused(local(tmp_path))
    assert error.field == "model.path"
    assert "holds a LoRA adapter (adapter_config.json), expected a whole model" in error.message
    assert "this folder as model.adapter" in error.message


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json", "nested.json"])
def test_code_that_comes_with_a_model_is_refused(folder: Path, file: str) -> None:
    path = folder / file
    values = json.loads(path.read_text()) if path.exists() else {}
    auto_map = {"auto_map": {"AutoModelForCausalLM": "modeling_evil.Evil"}}
    path.write_text(json.dumps(values | (auto_map if path.exists() else {"parts": [{"text": auto_map}]})))
    assert f"{file} has an auto_map" in refused(local(folder)).message


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


def test_digest_follows_content(llama_folder: Path, folder: Path, tmp_path: Path) -> None:
    known = Checksums(tmp_path / "known")
    digest = weights_digest(local(folder), known)
    assert digest == weights_digest(local(llama_folder), known)
    (folder / "notes.md").write_text("not a part of the model")
    assert digest == weights_digest(local(folder), known)
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "model.safetensors").write_bytes(weights)
    assert digest != weights_digest(local(folder), known)


def test_a_gguf_file_is_read_without_what_lies_beside_it(
    make_llama: Callable[..., LlamaForCausalLM],
    tokenizer: PreTrainedTokenizerFast,
    tmp_path: Path,
) -> None:
    save_gguf(make_llama(), tmp_path / "tiny.gguf")
    source = ModelSource(kind="gguf", location=str(tmp_path / "tiny.gguf"))
    alone = load_tokenizer(source).get_vocab()

    other = copy.deepcopy(tokenizer)
    other.add_tokens(["another's"])
    other.save_pretrained(tmp_path)

    assert load_tokenizer(source).get_vocab() == alone


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
    monkeypatch.setattr("ranksieve.workers.model.sources.MOST_WEIGHTS", 1000)
    with pytest.raises(InputError, match="asks for far too many modules"):
        empty_model(AutoConfig.for_model(**config))
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("blocks", [10_001, 2**32 - 1])
def test_a_gguf_file_of_blocks_without_end_is_refused(
    make_llama: Callable[..., LlamaForCausalLM],
    tmp_path: Path,
    blocks: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    add = gguf.GGUFWriter.add_block_count
    monkeypatch.setattr(gguf.GGUFWriter, "add_block_count", lambda writer, _: add(writer, blocks))
    save_gguf(make_llama(), tmp_path / "tiny.gguf")
    with pytest.raises(InputError, match="block_count of at most 10,000") as caught:
        load_config(ModelSource(kind="gguf", location=str(tmp_path / "tiny.gguf")))
    assert caught.value.field == "model.path"


def test_a_gguf_file_of_lists_without_end_is_refused(
    make_llama: Callable[..., LlamaForCausalLM],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ranksieve.workers.model.sources.MOST_ITEMS", 40)
    save_gguf(make_llama(), tmp_path / "tiny.gguf")
    with pytest.raises(InputError, match="at most 40 entries in its lists; got 48"):
        load_config(ModelSource(kind="gguf", location=str(tmp_path / "tiny.gguf")))
