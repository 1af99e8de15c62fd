import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, GPT2LMHeadModel, PreTrainedModel, PreTrainedTokenizerFast

from ranksieve.search.errors import InputError
from ranksieve.workers.cache.checksums import Checksums
from ranksieve.workers.cache.folders import FolderCache
from ranksieve.workers.model import adapter
from ranksieve.workers.model.adapter import CONFIG, WEIGHTS, check_adapter, fit_adapter, merge_adapter
from ranksieve.workers.model.loading import prepare_model
from ranksieve.workers.model.sources import empty_model, resolve, weights_digest
from ranksieve.workers.types.plan import ModelSource

peft = pytest.importorskip("peft", reason="needs the extra adapter")

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*is_gradient_checkpointing:FutureWarning"
)  # peft asks for it

CPU = torch.device("cpu")
Q, DOWN = "model.layers.0.self_attn.q_proj", "model.layers.1.mlp.down_proj"
SETTINGS = {"r": 2, "lora_alpha": 3, "target_modules": [Q, DOWN], "init_lora_weights": False}


def saved(model: PreTrainedModel, folder: Path, **settings: Any) -> Path:
    """An adapter of random numbers, as peft saves it."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        adapted = peft.get_peft_model(model, peft.LoraConfig(**SETTINGS | settings))
    adapted.save_pretrained(folder, save_embedding_layers=False)
    return folder


def load(folder: Path) -> PreTrainedModel:
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder)
    return model


@pytest.fixture
def own(folder: Path, tmp_path: Path) -> Path:
    """An adapter of the model in `folder`."""
    return saved(load(folder), tmp_path / "adapter")


def source(folder: Path, own: Path) -> ModelSource:
    return ModelSource(kind="path", location=str(folder), adapter=own, dtype="float32")


def refused(own: Path) -> str:
    with pytest.raises(InputError) as caught:
        check_adapter(own)
    assert caught.value.field == "model.adapter"
    return caught.value.message


def configured(own: Path, **settings: Any) -> Path:
    file = own / CONFIG
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))
    return own


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    "settings", [{}, {"use_rslora": True, "rank_pattern": {Q: 4}, "alpha_pattern": {f"^{DOWN}": 7}}]
)
def test_the_prepared_model_is_the_merged_one(
    folder: Path, tmp_path: Path, settings: dict[str, Any], dtype: Any
) -> None:
    own = saved(load(folder), tmp_path / "adapter", **settings)
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    plain = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    expected = peft.PeftModel.from_pretrained(base, own).merge_and_unload().state_dict()
    given = replace(source(folder, own), dtype=dtype)
    prepared = prepare_model(resolve(given), CPU, FolderCache(tmp_path / "cache"))
    got = load(prepared.folder).state_dict()
    torch.testing.assert_close(got, expected, rtol=0, atol=0)
    changed = {name for name in got if not torch.equal(got[name], plain[name])}
    assert changed == {f"{Q}.weight", f"{DOWN}.weight"}


def test_transposed_maps_are_merged(
    make_gpt2: Callable[[], GPT2LMHeadModel], tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    folder = tmp_path / "gpt2"
    make_gpt2().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    target = "transformer.h.1.attn.c_attn"
    own = saved(load(folder), tmp_path / "adapter", target_modules=[target], fan_in_fan_out=True)
    fit_adapter(own, empty_model(load(folder).config))
    weights = load_file(own / WEIGHTS)
    up_OR, down_RD = (weights[f"base_model.model.{target}.lora_{part}.weight"] for part in "BA")
    prepared = prepare_model(source(folder, own), CPU, FolderCache(tmp_path / "cache"))
    name = f"{target}.weight"
    change_DO = load(prepared.folder).state_dict()[name] - load(folder).state_dict()[name]
    torch.testing.assert_close(change_DO, 1.5 * (up_OR @ down_RD).T)


@pytest.mark.parametrize("file", adapter.FILES)
def test_another_adapter_makes_another_model(folder: Path, own: Path, tmp_path: Path, file: str) -> None:
    other, known = Path(shutil.copytree(own, tmp_path / "other")), Checksums(tmp_path)
    digest = weights_digest(source(folder, own), known)
    assert digest == weights_digest(source(folder, other), known)
    assert digest != weights_digest(ModelSource(kind="path", location=str(folder)), known)
    if file == CONFIG:
        configured(other, lora_alpha=4)
    else:
        save_file({name: 2 * weight for name, weight in load_file(own / file).items()}, other / file)
    assert digest != weights_digest(source(folder, other), known)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"peft_type": "IA3"}, "must have a peft_type of LORA, got 'IA3'"),
        (
            {"modules_to_save": ["lm_head"]},
            r"uses modules_to_save (['lm_head']), which is not supported; merge it",
        ),
        ({"trainable_token_indices": [3]}, "uses trainable_token_indices"),
        ({"use_dora": True}, "uses use_dora"),
        ({"bias": "all"}, "uses bias (all)"),
        ({"init_lora_weights": "pissa"}, "uses init_lora_weights (pissa)"),
        ({"megatron_config": {"a": 1}}, "uses megatron_config"),
        ({"of_the_future": 1}, "uses of_the_future"),
        ({"alpha_pattern": {"(a+)+$": 1}}, "alpha_pattern must map names of matrices, not patterns"),
        ({"rank_pattern": [1]}, "rank_pattern must map names"),
    ],
)
def test_an_adapter_that_is_more_than_low_rank_maps_is_refused(
    own: Path, settings: dict[str, Any], message: str
) -> None:
    assert message in refused(configured(own, **settings))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not valid JSON"),
        ("[]", "got None"),
        ("[" * 10**5, "is not valid JSON"),
        (" " * 2**21, "bytes"),
    ],
)
def test_a_damaged_configuration_is_refused(own: Path, content: str, message: str) -> None:
    (own / CONFIG).write_text(content)
    assert message in refused(own)


def test_tensors_of_other_kinds_are_refused(own: Path) -> None:
    tensors = load_file(own / WEIGHTS)
    first = next(name for name in tensors if "lora_A" in name)
    cases = [
        (
            tensors | {"base_model.model.lm_head.weight": torch.ones(2, 2)},
            "holds base_model.model.lm_head.weight",
        ),
        ({name: weight for name, weight in tensors.items() if name != first}, "must hold a pair"),
        (tensors | {first: torch.ones(3, 32)}, "must hold a pair"),
        ({}, "holds no adapted matrix"),
    ]
    for changed, message in cases:
        save_file(changed, own / WEIGHTS)
        assert message in refused(own)
    (own / WEIGHTS).write_bytes(b"cut off")
    assert "is damaged" in refused(own)


def test_pickled_weights_are_not_read(own: Path) -> None:
    torch.save(load_file(own / WEIGHTS), own / "adapter_model.bin")
    (own / WEIGHTS).unlink()
    assert f"without a file {WEIGHTS}; pickled weights are never loaded" in refused(own)


def test_a_whole_model_is_no_adapter(folder: Path) -> None:
    assert f"without a file {CONFIG}" in refused(folder)


def test_without_peft_the_extra_is_named(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter, "find_spec", lambda name: None)
    assert "pip install 'ranksieve[adapter]'" in refused(own)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden_size": 16}, "as 32×32, in the model it is"),
        ({"num_hidden_layers": 1}, f"adapts {DOWN}, which is no matrix of the model"),
    ],
)
def test_an_adapter_of_another_model_is_refused(
    make_llama: Callable[..., PreTrainedModel], own: Path, options: dict[str, Any], message: str
) -> None:
    model = make_llama(**options)
    with pytest.raises(InputError, match=message) as caught:
        fit_adapter(own, empty_model(model.config))
    assert caught.value.field == "model.adapter"
    with pytest.raises(InputError, match=r"model\.adapter: .* does not fit the model"):
        merge_adapter(model, own)


def test_an_adapted_head_may_not_be_the_embeddings(
    make_llama: Callable[..., PreTrainedModel], tmp_path: Path
) -> None:
    own = saved(make_llama(), tmp_path / "adapter", target_modules=["lm_head"])
    fit_adapter(own, make_llama())
    with pytest.raises(InputError, match="adapts lm_head, whose weights are those of the embeddings, too"):
        fit_adapter(own, make_llama(tie_word_embeddings=True))
