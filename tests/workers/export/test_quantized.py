import json
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from transformers import AutoModelForCausalLM

from ranksieve.search.errors import InfrastructureError, InputError
from ranksieve.workers.export.dense import multiply_out
from ranksieve.workers.export.quantized import quantize
from ranksieve.workers.export.reader import load_folder
from ranksieve.workers.export.writer import ExportPlan, export
from ranksieve.workers.machine import extras
from ranksieve.workers.model.loading import weight_bytes

IDS_BL = torch.tensor([[4, 9, 30, 12, 7], [20, 3, 5, 41, 17]])

EMBEDDING = "model.embed_tokens.weight"


@pytest.fixture
def folder(export_plan: ExportPlan) -> Path:
    list(export(export_plan))
    return export_plan.folder


@pytest.mark.usefixtures("_own_modules_cache")
@pytest.mark.parametrize(("bits", "error", "share"), [(8, 0.04, 0.75), (4, 0.5, 0.7)])
@torch.inference_mode()
def test_a_rounded_copy_loads_in_plain_transformers_and_answers_nearly_alike(
    folder: Path, tmp_path: Path, bits: int, error: float, share: float
) -> None:
    output = tmp_path / "copy"
    quantize(folder, output, bits)

    model, loading = AutoModelForCausalLM.from_pretrained(
        output, dtype="auto", trust_remote_code=True, output_loading_info=True
    )
    assert not any(loading.values())
    before = load_folder(folder)(IDS_BL).logits
    after = model(IDS_BL).logits
    assert 0 < (after - before).norm() / before.norm() < error
    torch.testing.assert_close(load_folder(output)(IDS_BL).logits, after)
    assert weight_bytes(output) < share * weight_bytes(folder)
    assert model.dtype == load_folder(folder).dtype
    assert [file.name for file in tmp_path.iterdir() if file.name.startswith(".")] == []


def test_each_group_has_the_scale_that_loses_least(folder: Path, tmp_path: Path) -> None:
    """No worse than the scale that spreads the largest of 16 neighbours over the whole range."""
    quantize(folder, tmp_path / "copy", 4)
    before, after = (load_folder(one).state_dict() for one in (folder, tmp_path / "copy"))
    assert before.keys() == after.keys()
    assert not torch.equal(before[EMBEDDING], after[EMBEDDING])
    better = 0
    for name, weight in before.items():
        if torch.equal(weight, after[name]):
            continue
        groups_RGN = weight.float().unflatten(-1, (-1, 16))
        steps = groups_RGN.abs().amax(-1, keepdim=True) * 2 / 15
        plain_RGN = (groups_RGN / steps).round().clamp(-8, 7) * steps
        plain, chosen = (
            (one - groups_RGN).square().sum(-1)
            for one in (plain_RGN, after[name].float().unflatten(-1, (-1, 16)))
        )
        assert (chosen <= 1.01 * plain + 1e-12).all(), name
        better += int((chosen < 0.99 * plain).sum())
    assert better > 100


def test_its_card_says_that_its_numbers_are_of_the_model_before(folder: Path, tmp_path: Path) -> None:
    quantize(folder, tmp_path / "copy", 4)
    before, after = (ModelCard((one / "README.md").read_text()) for one in (folder, tmp_path / "copy"))
    assert after.data.to_dict() == before.data.to_dict()
    assert "stored in 4 bits" in after.text
    assert after.text.index("## Bits") < after.text.index("## Not checked")


def test_what_cannot_be_rounded_is_refused_before_anything_is_written(
    folder: Path, llama_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match="bits: expected 4 or 8, got 3"):
        quantize(folder, tmp_path / "copy", 3)
    with pytest.raises(InputError, match="is no export of ranksieve"):
        quantize(llama_folder, tmp_path / "copy", 4)
    with pytest.raises(InputError, match=r"output: .* exists already"):
        quantize(folder, tmp_path, 4)
    quantize(folder, tmp_path / "copy", 8)
    with pytest.raises(InputError, match="is quantized already"):
        quantize(tmp_path / "copy", tmp_path / "second", 4)
    with pytest.raises(InputError, match="is quantized already"):
        multiply_out(tmp_path / "copy", tmp_path / "second")
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    with pytest.raises(InfrastructureError, match=r"pip install 'ranksieve\[quantize\]'"):
        quantize(folder, tmp_path / "third", 4)
    assert not (tmp_path / "second").exists()
    assert "quantization_config" not in json.loads((folder / "config.json").read_text())
