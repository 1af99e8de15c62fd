import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

from ranksieve.search.errors import InputError
from ranksieve.workers.export.dense import multiply_out
from ranksieve.workers.export.reader import load_folder
from ranksieve.workers.export.writer import Exported, ExportPlan, export

IDS_BL = torch.tensor([[4, 9, 30, 12, 7], [20, 3, 5, 41, 17]])


def exported(plan: ExportPlan) -> Path:
    *_, last = export(plan)
    assert isinstance(last, Exported)
    return last.folder


@torch.inference_mode()
def test_a_dense_copy_answers_like_its_export_in_plain_transformers(
    export_plan: ExportPlan, tmp_path: Path
) -> None:
    """With a whole sublayer gone."""
    names = [matrix.name for matrix in export_plan.matrices]
    ranks = list(export_plan.ranks)
    ranks[names.index("model.layers.1.self_attn.o_proj")] = 0
    folder, output = exported(replace(export_plan, ranks=tuple(ranks))), tmp_path / "dense"
    (folder / "modeling_ranksieve.py").write_text("raise SystemExit('never run')")
    multiply_out(folder, output)
    model, loading = AutoModelForCausalLM.from_pretrained(output, dtype="auto", output_loading_info=True)
    assert type(model) is LlamaForCausalLM
    assert not loading["missing_keys"]
    assert not loading["unexpected_keys"]
    expected = load_folder(folder)
    torch.testing.assert_close(model(IDS_BL).logits, expected(IDS_BL).logits, rtol=1e-4, atol=1e-4)
    assert AutoTokenizer.from_pretrained(output).tokenize("w1") == ["w1"]
    assert not model.get_submodule("model.layers.1.self_attn.q_proj").weight.any()
    assert "ranksieve" not in json.loads((output / "config.json").read_text())
    assert not (output / "modeling_ranksieve.py").exists()
    assert [file.name for file in tmp_path.iterdir() if file.name.startswith(".")] == []


def test_its_card_says_what_it_is_good_for(export_plan: ExportPlan, tmp_path: Path) -> None:
    folder, output = exported(export_plan), tmp_path / "dense"
    multiply_out(folder, output)
    before, after = (ModelCard((one / "README.md").read_text()) for one in (folder, output))
    assert "ranksieve dense" in before.text
    assert after.data.to_dict() == before.data.to_dict()
    assert "what is left is as large and as slow as in the dense model" in " ".join(after.text.split())
    assert "trust_remote_code" not in after.text
    assert "## Provenance" in after.text


def test_only_exports_are_multiplied_out_and_nothing_is_replaced(
    export_plan: ExportPlan, llama_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="is no export of ranksieve"):
        multiply_out(llama_folder, tmp_path / "dense")
    with pytest.raises(InputError, match=r"output: .* exists already"):
        multiply_out(llama_folder, tmp_path)
