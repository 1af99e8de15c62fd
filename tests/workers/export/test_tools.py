"""Exports in the tools of others, each without a line of ours."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.export import Dim
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedModel

from ranksieve.workers.export.writer import ExportPlan, export

IDS_BL = torch.tensor([[4, 9, 30, 12, 7], [20, 3, 5, 41, 17]])
OTHER_BL = torch.tensor([[4, 9, 30], [20, 3, 5], [6, 6, 1]])

pytestmark = pytest.mark.usefixtures("_own_modules_cache")


@pytest.fixture
def folder(export_plan: ExportPlan) -> Path:
    list(export(export_plan))
    return export_plan.folder


def loaded(folder: Path, **options: Any) -> PreTrainedModel:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", trust_remote_code=True, **options)
    assert isinstance(model, PreTrainedModel)
    return model.eval()


class Logits(nn.Module):
    """A model as a function of token ids alone."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids_BL: torch.Tensor) -> torch.Tensor:
        logits_BLV: torch.Tensor = self.model(input_ids=ids_BL, use_cache=False).logits
        return logits_BLV


@torch.inference_mode()
def test_torch_export_makes_a_program_for_any_batch_and_length(folder: Path) -> None:
    model = Logits(loaded(folder))
    program = torch.export.export(model, (IDS_BL,), dynamic_shapes=({0: Dim.AUTO, 1: Dim.AUTO},))
    torch.testing.assert_close(program.module()(OTHER_BL), model(OTHER_BL))


@torch.inference_mode()
def test_onnx_runtime_answers_alike(folder: Path, tmp_path: Path) -> None:
    import onnxruntime

    model, file = Logits(loaded(folder)), tmp_path / "model.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's own exporter
        torch.onnx.export(
            model, (IDS_BL,), file, dynamo=True, verbose=False, dynamic_shapes=({0: "batch", 1: "length"},)
        )
    session = onnxruntime.InferenceSession(file)
    (logits,) = session.run(None, {session.get_inputs()[0].name: OTHER_BL.numpy()})
    torch.testing.assert_close(torch.from_numpy(logits), model(OTHER_BL), rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_linear_maps_of_8_bits_answer_nearly_alike(folder: Path) -> None:
    """Not with 4 bits: on processors bitsandbytes needs ranks in multiples of 64."""
    before = loaded(folder)(IDS_BL).logits.float()
    after = loaded(folder, quantization_config=BitsAndBytesConfig(load_in_8bit=True))(IDS_BL).logits.float()
    assert 0 < (after - before).norm() / before.norm() < 0.1
