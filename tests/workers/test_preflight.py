import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3MoeForCausalLM

from ranksieve.search.errors import InputError
from ranksieve.workers.cache.folders import FolderCache
from ranksieve.workers.preflight import check
from ranksieve.workers.types.plan import DataPlan, ModelSource, RecordSource, TaskPlan

TASK = TaskPlan(kind="lm", prompt="", answer="{{ text }}")


@pytest.fixture
def data(tmp_path: Path) -> DataPlan:
    file = tmp_path / "texts.jsonl"
    file.write_text("".join(json.dumps({"text": f"w{i} w1 w2"}) + "\n" for i in range(20)))
    return DataPlan(source=RecordSource(field="task.data.source", path=file), sizes={"test": 20})


@pytest.fixture
def model(llama_folder: Path) -> ModelSource:
    return ModelSource(kind="path", location=str(llama_folder), include=("mlp.*",))


def test_job_that_can_work(model: ModelSource, data: DataPlan, tmp_path: Path) -> None:
    checked = check(model, TASK, data, FolderCache(tmp_path / "models"))
    assert checked.model == model
    assert {matrix.kind for matrix in checked.matrices} == {"mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"}
    assert len(checked.task.splits["test"]) == 20


def test_experts_are_told_of(
    make_mixture: Callable[..., Any], llama_folder: Path, data: DataPlan, tmp_path: Path
) -> None:
    folder = tmp_path / "mixture"
    shutil.copytree(llama_folder, folder)
    Qwen3MoeForCausalLM(make_mixture().config).save_pretrained(folder)
    for exclude, expert in ((), "model.layers.0.mlp.experts.0.gate_up"), (("*.experts.*",), None):
        source = ModelSource(kind="path", location=str(folder), exclude=exclude)
        assert check(source, TASK, data, FolderCache(tmp_path / "models")).expert == expert


def test_every_part_is_checked(model: ModelSource, data: DataPlan, tmp_path: Path) -> None:
    for source, task, field in (
        (replace(model, location=str(tmp_path)), TASK, "model.path"),
        (replace(model, include=("nothing",)), TASK, "model.include"),
        (model, replace(TASK, answer="{{ missing }}"), "task.answer"),
        (model, replace(TASK, answer="{{ text }}" + " w1" * 64), "task.answer"),  # the context is 64 tokens
    ):
        with pytest.raises(InputError) as caught:
            check(source, task, data, FolderCache(tmp_path / "models"))
        assert caught.value.field == field


def test_a_tokenizer_of_another_model_is_refused(
    make_llama: Callable[..., LlamaForCausalLM], llama_folder: Path, data: DataPlan, tmp_path: Path
) -> None:
    folder = tmp_path / "small"
    shutil.copytree(llama_folder, folder)
    make_llama(vocab_size=20).save_pretrained(folder)
    with pytest.raises(InputError, match="model: has 20 embeddings, but its tokenizer produces token 22"):
        check(ModelSource(kind="path", location=str(folder)), TASK, data, FolderCache(tmp_path / "models"))


def test_a_model_whose_layers_share_keys_and_values_cannot_be_cut(
    model: ModelSource, data: DataPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = FolderCache(tmp_path / "models")
    assert check(model, TASK, data, models).by_block
    monkeypatch.setattr(LlamaConfig, "num_kv_shared_layers", 1, raising=False)  # as Gemma 3n has
    assert not check(model, TASK, data, models).by_block


DAMAGED: list[tuple[str, Any]] = [
    ("config.json", {"num_attention_heads": 3}),
    ("config.json", {"hidden_act": "none such"}),
    ("config.json", {"initializer_range": "wide"}),
    ("config.json", {"attn_implementation": "flash_attention_2"}),
    ("config.json", {"hidden_size": -1}),
    ("tokenizer.json", None),
    ("tokenizer.json", {"model": {"type": "none such"}}),
    ("tokenizer_config.json", []),
    (
        "tokenizer.json",  # at which its library panics
        {
            "model": {
                "type": "BPE",
                "continuing_subword_prefix": "####",
                "vocab": {"aa": 0, "bb": 1, "aabb": 2},
                "merges": [["aa", "bb"]],
            }
        },
    ),
    ("tokenizer.json", {"model": {"type": "WordLevel", "vocab": {"w1": 0}, "unk_token": "[UNK]"}}),
]


@pytest.mark.parametrize(("name", "change"), DAMAGED)
def test_whatever_is_wrong_with_a_model_is_its_users_to_mend(
    llama_folder: Path, data: DataPlan, tmp_path: Path, name: str, change: Any
) -> None:
    folder = tmp_path / "damaged"
    shutil.copytree(llama_folder, folder)
    file = folder / name
    file.write_text(
        json.dumps({**json.loads(file.read_text()), **change} if isinstance(change, dict) else change)
    )
    with pytest.raises(InputError) as caught:
        check(ModelSource(kind="path", location=str(folder)), TASK, data, FolderCache(tmp_path / "models"))
    assert caught.value.field in {"model", "model.path"}
