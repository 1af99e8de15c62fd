import importlib.metadata
import json
import os
import runpy
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from jinja2 import UndefinedError
from safetensors.torch import load_file
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    PreTrainedModel,
)

from ranksieve.search.space.matrix import DENSE
from ranksieve.workers.export.reader import load_folder
from ranksieve.workers.export.writer import LEAST_TRANSFORMERS, Exported, ExportPlan, export
from ranksieve.workers.factors.preparation import prepare
from ranksieve.workers.factors.prepared import PreparationPlan, Prepared, load_factors
from ranksieve.workers.model.loading import load_prepared, weight_bytes
from ranksieve.workers.model.switchable import SwitchableModel
from ranksieve.workers.types.progress import Progress

CPU = torch.device("cpu")
IDS_BL = torch.tensor([[4, 9, 30, 12, 7], [20, 3, 5, 41, 17]])

STRANGER = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "ranksieve":
            raise ImportError(f"{name} is not here")

sys.meta_path.insert(0, Blocker())
try:
    import ranksieve.workers
except ImportError:
    pass
else:
    sys.exit("the blocker blocks nothing")

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

folder, out = sys.argv[1:]
model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True, dtype="auto").eval()
tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
batch = tokenizer("w1 w6 w27 w9 w4", return_tensors="pt", return_token_type_ids=False)
with torch.inference_mode():
    logits = model(**batch).logits
    text = model.generate(**batch, max_new_tokens=5, min_new_tokens=5, do_sample=False, pad_token_id=2)
torch.save({"logits": logits, "text": text, "class": type(model).__name__}, out)
"""


def run(plan: ExportPlan) -> Exported:
    first, second, last = export(plan)
    assert [first, second] == [Progress(phase="export", done=done, total=1) for done in (0, 1)]
    assert isinstance(last, Exported)
    return last


def switchable(plan: ExportPlan) -> PreTrainedModel:
    """The model as the search sees it, at the plan's ranks."""
    model = load_prepared(plan.model_folder, CPU)
    SwitchableModel(model, plan.matrices, load_factors(plan.factors_folder)).switch(plan.ranks)
    return model


@torch.inference_mode()
def test_stranger_gets_the_searched_model(export_plan: ExportPlan, tmp_path: Path) -> None:
    exported = run(export_plan)
    out = tmp_path / "out.pt"
    environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", STRANGER, str(exported.folder), str(out)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    got, model = torch.load(out), switchable(export_plan)
    assert got["class"] == "LowRankLlamaForCausalLM"
    torch.testing.assert_close(got["logits"], model(IDS_BL[:1]).logits, rtol=1e-4, atol=1e-4)
    text = model.generate(IDS_BL[:1], max_new_tokens=5, min_new_tokens=5, do_sample=False, pad_token_id=2)  # type: ignore[operator]
    assert got["text"].equal(text)


def test_weights_are_those_of_the_ranks(export_plan: ExportPlan, prepared: Prepared) -> None:
    exported = run(export_plan)
    tensors = load_file(exported.folder / "model.safetensors")
    for matrix, rank in zip(export_plan.matrices, export_plan.ranks, strict=True):
        shapes = {
            name.removeprefix(f"{matrix.name}."): tuple(tensor.shape)
            for name, tensor in tensors.items()
            if name.startswith(f"{matrix.name}.")
        }
        low_rank: dict[str, tuple[int, ...]] = {
            "down.weight": (rank, matrix.in_features),
            "up.weight": (matrix.out_features, rank),
        }
        dense = {"weight": (matrix.out_features, matrix.in_features)}
        assert shapes == {DENSE: dense, 0: {}}.get(rank, low_rank)
    prices = [m.price(rank) for m, rank in zip(export_plan.matrices, export_plan.ranks, strict=True)]
    assert exported.block_params == sum(prices)
    assert exported.total_params == sum(tensor.numel() for tensor in tensors.values())
    assert exported.file_bytes == weight_bytes(exported.folder) < weight_bytes(prepared.model.folder)


@pytest.mark.usefixtures("_own_modules_cache")
def test_no_other_class_takes_the_weights(export_plan: ExportPlan, tmp_path: Path) -> None:
    """By the type of the architecture transformers would load its own class, with random matrices. Saved again, too."""
    folder = run(export_plan).folder
    saved = tmp_path / "saved"
    AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True).save_pretrained(saved)
    expected = switchable(export_plan)(IDS_BL).logits
    for one in (folder, saved):
        with pytest.raises(ValueError, match="contains custom code"):
            AutoModelForCausalLM.from_pretrained(one, trust_remote_code=False)
        with pytest.raises(ValueError, match="Unrecognized configuration class"):
            AutoModelForQuestionAnswering.from_pretrained(
                one, trust_remote_code=True
            )  # no place for the weights
        stranger = AutoModelForCausalLM.from_pretrained(one, trust_remote_code=True).eval()
        torch.testing.assert_close(stranger(IDS_BL).logits, expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(load_folder(one)(IDS_BL).logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("_own_modules_cache")
@torch.inference_mode()
def test_another_head_gets_the_blocks_of_the_export(export_plan: ExportPlan) -> None:
    folder = run(export_plan).folder
    expected = switchable(export_plan).base_model(IDS_BL).last_hidden_state
    model, loading = AutoModelForSequenceClassification.from_pretrained(
        folder, trust_remote_code=True, output_loading_info=True, num_labels=3
    )
    assert set(loading["missing_keys"]) == {"score.weight"}
    assert model.num_labels == 3
    got = model.eval().base_model(IDS_BL).last_hidden_state
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("_own_modules_cache")
def test_a_serving_engine_finds_what_it_asks_for(export_plan: ExportPlan) -> None:
    """Conditions of vLLM's Transformers backend: a base model that its attention fits, and no wrong shards."""
    folder = run(export_plan).folder
    config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
    with torch.device("meta"):
        model = AutoModel.from_config(config, trust_remote_code=True)
    assert type(model).is_backend_compatible()
    assert not model.supports_tp_plan
    weights = load_file(folder / "model.safetensors")
    expected = {name.removeprefix("model.") for name in weights if name.startswith("model.")}
    assert {name for name, _ in model.named_parameters()} == expected


def test_earlier_transformers_is_refused(export_plan: ExportPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    file = run(export_plan).folder / "modeling_ranksieve.py"
    monkeypatch.setattr(transformers, "__version__", "4.57.1")
    with pytest.raises(ImportError, match=r"needs transformers 5.24 or later, got 4.57.1"):
        runpy.run_path(str(file))
    requirements = importlib.metadata.requires("ranksieve") or []
    assert any(one.startswith("transformers") and f">={LEAST_TRANSFORMERS}" in one for one in requirements)


def test_folder_holds_what_a_stranger_needs(export_plan: ExportPlan) -> None:
    folder = run(export_plan).folder
    assert {file.name for file in folder.iterdir()} >= {
        "README.md",
        "config.json",
        "model.safetensors",
        "modeling_ranksieve.py",
        "ranksieve.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert not (folder / "manifest.json").exists()
    assert [file.name for file in folder.parent.iterdir() if file.name.startswith(".")] == []
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["LowRankLlamaForCausalLM"]
    assert config["model_type"] == "ranksieve_llama"
    assert config["auto_map"] == {
        "AutoConfig": "modeling_ranksieve.LowRankLlamaConfig",
        "AutoModel": "modeling_ranksieve.LowRankLlamaModel",
        "AutoModelForCausalLM": "modeling_ranksieve.LowRankLlamaForCausalLM",
        "AutoModelForSequenceClassification": "modeling_ranksieve.LowRankLlamaForSequenceClassification",
        "AutoModelForTokenClassification": "modeling_ranksieve.LowRankLlamaForTokenClassification",
    }
    assert config["ranksieve"]["base_class"] == "LlamaForCausalLM"
    assert len(config["ranksieve"]["ranks"]) == len(export_plan.ranks) - 1
    card = (folder / "README.md").read_text()
    assert "# Small films" in card
    assert "| accuracy, confirm split | 0.9000 | 0.9000 |" in card


def test_card_tells_what_a_drop_is_told_in(export_plan: ExportPlan, provenance: dict[str, Any]) -> None:
    summary = provenance["summary"]
    summary["best"]["drop"] = {"test": {"drop_points": 1.5, "drop_low": 0.5, "drop_high": 2.5}}

    def card() -> str:
        return (run(replace(export_plan, provenance=provenance)).folder / "README.md").read_text()

    assert "Drop on the test split: 1.50 points\n" in card()
    summary["metric_name"] = "perplexity"
    assert "Drop on the test split: 1.50 % of perplexity\n" in card()


def test_card_tells_what_factors_were_trained_on(export_plan: ExportPlan, provenance: dict[str, Any]) -> None:
    provenance["summary"] |= {"train_epochs": 3}
    card = (run(export_plan).folder / "README.md").read_text()
    taught = "labels and the dense model's answers"
    assert f"trained for 3 epochs on the calibration split's {taught} (the dense model was not" in card


def test_files_have_the_permissions_of_the_folder(export_plan: ExportPlan) -> None:
    before = os.umask(0o027)
    try:
        folder = run(export_plan).folder
    finally:
        os.umask(before)
    written = ("config.json", "model.safetensors", "ranksieve.json")
    assert {name: stat.S_IMODE((folder / name).stat().st_mode) for name in written} == dict.fromkeys(
        written, 0o640
    )


def test_provenance_tells_the_sizes_of_the_files(
    export_plan: ExportPlan, provenance: dict[str, Any], prepared: Prepared
) -> None:
    exported = run(export_plan)
    kept = exported.block_params / prepared.block_params
    sizes = {"block_params": exported.block_params, "total_params": exported.total_params}
    provenance["summary"]["best"] |= sizes | {"kept_block_params": kept}
    names = [matrix.name for matrix in export_plan.matrices]
    provenance["summary"]["ranks"] = dict(zip(names, export_plan.ranks, strict=True))
    assert json.loads((exported.folder / "ranksieve.json").read_text()) == provenance
    card = (exported.folder / "README.md").read_text()
    assert f"| {exported.block_params:,} ({100 * kept:.1f} %) |" in card


@pytest.mark.usefixtures("_own_modules_cache")
@torch.inference_mode()
def test_dead_sublayer_is_not_written(export_plan: ExportPlan, prepared: Prepared) -> None:
    ranks = [3] * len(export_plan.matrices)
    outputs = ("layers.0.self_attn.o_proj", "layers.1.mlp.down_proj")
    for index, matrix in enumerate(export_plan.matrices):
        if matrix.name.endswith(outputs):
            ranks[index] = 0
    plan = replace(export_plan, ranks=tuple(ranks))
    exported = run(plan)
    tensors = load_file(exported.folder / "model.safetensors")
    sublayers = ("model.layers.0.self_attn.", "model.layers.1.mlp.")
    assert not [name for name in tensors if name.startswith(sublayers)]
    dead = {m.name: m.price(3) for m in plan.matrices if m.name.startswith(sublayers)}
    assert exported.dead == {name: price for name, price in dead.items() if not name.endswith(outputs)}
    assert exported.block_params == sum(m.price(3) for m in plan.matrices) - sum(dead.values())
    assert exported.total_params == sum(tensor.numel() for tensor in tensors.values())
    assert prepared.total_params - exported.total_params == prepared.block_params - exported.block_params
    summary = json.loads((exported.folder / "ranksieve.json").read_text())["summary"]
    assert {name for name, rank in summary["ranks"].items() if rank == 0} == set(dead)
    assert summary["best"]["block_params"] == exported.block_params

    expected = switchable(plan)
    stranger = AutoModelForCausalLM.from_pretrained(plan.folder, trust_remote_code=True, dtype="auto").eval()
    for loaded in (load_folder(plan.folder), stranger):
        torch.testing.assert_close(loaded(IDS_BL).logits, expected(IDS_BL).logits, rtol=1e-4, atol=1e-4)
        options = {"max_new_tokens": 5, "do_sample": False, "pad_token_id": 2}
        assert loaded.generate(IDS_BL, **options).equal(expected.generate(IDS_BL, **options))  # type: ignore[operator]


def test_exporting_again_replaces_the_folder(export_plan: ExportPlan) -> None:
    run(export_plan)
    (export_plan.folder / "left over").write_text("")
    count = len(export_plan.matrices)
    exported = run(replace(export_plan, ranks=(1,) * count))
    assert not (exported.folder / "left over").exists()
    assert set(json.loads((exported.folder / "config.json").read_text())["ranksieve"]["ranks"].values()) == {
        1
    }


def test_failed_export_leaves_the_old_folder_alone(export_plan: ExportPlan, tmp_path: Path) -> None:
    folder = tmp_path / "artifacts" / "model"
    folder.parent.mkdir()
    plan = replace(export_plan, folder=folder)
    broken = replace(plan, provenance={**plan.provenance, "versions": {}})
    plan.scratch.mkdir()
    (plan.scratch / "left by a killed export").write_text("")
    card = (run(plan).folder / "README.md").read_text()
    assert not (folder / "left by a killed export").exists()
    with pytest.raises(UndefinedError, match="no attribute 'ranksieve'"):
        run(broken)
    assert (folder / "README.md").read_text() == card
    assert list(folder.parent.iterdir()) == [folder]
    assert not plan.scratch.exists()


@pytest.mark.parametrize("rank", [DENSE, 0])
@torch.inference_mode()
def test_all_dense_and_all_gone(export_plan: ExportPlan, rank: int) -> None:
    plan = replace(export_plan, ranks=(rank,) * len(export_plan.matrices))
    loaded = load_folder(run(plan).folder)
    torch.testing.assert_close(loaded(IDS_BL).logits, switchable(plan)(IDS_BL).logits)


def test_export_keeps_the_dtype(
    preparation_plan: PreparationPlan, export_plan: ExportPlan, tmp_path: Path
) -> None:
    source = replace(preparation_plan.model, dtype="bfloat16")
    *_, prepared = prepare(replace(preparation_plan, model=source, cache_dir=tmp_path / "cache"))
    assert isinstance(prepared, Prepared)
    plan = replace(export_plan, model_folder=prepared.model.folder, factors_folder=prepared.factors)
    tensors = load_folder(run(plan).folder).state_dict().values()
    assert {tensor.dtype for tensor in tensors} == {torch.bfloat16}
