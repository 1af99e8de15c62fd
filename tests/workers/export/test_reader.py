import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from ranksieve.search.errors import InputError
from ranksieve.workers.export.reader import load_folder
from ranksieve.workers.export.writer import Exported, ExportPlan, export
from ranksieve.workers.factors.prepared import load_factors
from ranksieve.workers.model.loading import load_prepared
from ranksieve.workers.model.switchable import SwitchableModel

IDS_BL = torch.tensor([[4, 9, 30, 12, 7], [20, 3, 5, 41, 17]])


def exported(plan: ExportPlan) -> Path:
    *_, last = export(plan)
    assert isinstance(last, Exported)
    return last.folder


@torch.inference_mode()
def test_own_loader_gets_the_searched_model(export_plan: ExportPlan) -> None:
    folder = exported(export_plan)
    (folder / "modeling_ranksieve.py").write_text("raise SystemExit('never run')")
    loaded = load_folder(folder)
    assert not loaded.training
    model = load_prepared(export_plan.model_folder, torch.device("cpu"))
    factors = load_factors(export_plan.factors_folder)
    SwitchableModel(model, export_plan.matrices, factors).switch(export_plan.ranks)
    expected = model(IDS_BL).logits
    torch.testing.assert_close(loaded(IDS_BL).logits, expected, rtol=1e-4, atol=1e-4)


def test_a_folder_without_weights_is_wrong_input(export_plan: ExportPlan) -> None:
    folder = exported(export_plan)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"model_dir: .* holds no \*\.safetensors; pickled"):
        load_folder(folder)


def test_own_loader_reads_infinity(export_plan: ExportPlan) -> None:
    config = exported(export_plan) / "config.json"
    values = json.loads(config.read_text()) | {"time_step_limit": [0.0, {"__float__": "Infinity"}]}
    config.write_text(json.dumps(values))
    assert load_folder(config.parent).config.time_step_limit == [0.0, math.inf]


@torch.inference_mode()
def test_plain_folder_is_loaded_as_it_is(
    llama_folder: Path, make_llama: Callable[[], PreTrainedModel]
) -> None:
    torch.testing.assert_close(load_folder(llama_folder)(IDS_BL).logits, make_llama()(IDS_BL).logits)


def test_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="model_dir: expected a model folder"):
        load_folder(tmp_path)


@pytest.mark.parametrize("name", ["NoSuchModel", "AutoConfig", "pipeline"])
def test_unknown_base_class_is_refused(export_plan: ExportPlan, name: str) -> None:
    file = exported(export_plan) / "config.json"
    values = json.loads(file.read_text())
    values["ranksieve"]["base_class"] = name
    file.write_text(json.dumps(values))
    with pytest.raises(InputError, match=f"unknown base class '{name}'"):
        load_folder(export_plan.folder)


def test_missing_weights_are_refused(export_plan: ExportPlan, llama_folder: Path, tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    shutil.copytree(llama_folder, plain)
    for folder in (exported(export_plan), plain):
        weights = load_file(folder / "model.safetensors")
        del weights["model.norm.weight"]
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(
            InputError, match=r"model_dir: 1 weights are missing in the files, such as model\.norm\.weight"
        ):
            load_folder(folder)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("config.json", "{"),
        ("config.json", "[]"),
        ("config.json", "5"),
        ("config.json", "[" * 100_000),
        ("config.json", '{"ranksieve": null}'),
        ("config.json", '{"ranksieve": {}}'),
        ("config.json", '{"model_type": "nosuch"}'),
        ("model.safetensors", ""),
        ("model.safetensors", "version https://git-lfs.github.com/spec/v1"),
    ],
)
def test_a_damaged_folder_is_wrong_input(llama_folder: Path, tmp_path: Path, file: str, content: str) -> None:
    shutil.copytree(llama_folder, tmp_path / "damaged")
    (tmp_path / "damaged" / file).write_text(content)
    with pytest.raises(InputError, match="model_dir: cannot load"):
        load_folder(tmp_path / "damaged")
