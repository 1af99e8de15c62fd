"""Tuning of exports with peft and transformers' Trainer.

In processes of their own: what is registered with transformers and peft stays registered.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ranksieve.workers.export.writer import ExportPlan, export

pytest.importorskip("peft", reason="needs the extra adapter")

STEPS = """
import sys, warnings
warnings.simplefilter("ignore")
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

folder, out = sys.argv[1:]
IDS = torch.tensor([[4, 9, 30, 12, 7], [20, 3, 5, 41, 17]])

def load(folder):
    return AutoModelForCausalLM.from_pretrained(folder, **LOADING).eval()

@torch.inference_mode()
def logits(model):
    return model.eval()(IDS).logits

def train(model):
    torch.manual_seed(0)
    arguments = TrainingArguments(
        out + "/runs", max_steps=2, learning_rate=0.05, report_to=[], use_cpu=True, save_strategy="no"
    )
    rows = [{"input_ids": row, "labels": row} for row in IDS]
    assert Trainer(model, arguments, train_dataset=rows).train().global_step == 2

model = load(folder)
before = logits(model)

tuned = get_peft_model(model, LoraConfig())
assert set(tuned.peft_config["default"].target_modules) >= {"down", "up"}
train(tuned)
after = logits(tuned)
assert not torch.allclose(after, before, atol=1e-3)

tuned.save_pretrained(out + "/adapter")
again = PeftModel.from_pretrained(load(folder), out + "/adapter")
torch.testing.assert_close(logits(again), after)

merged = tuned.merge_and_unload()
merged.save_pretrained(out + "/merged")
assert load_file(out + "/merged/model.safetensors").keys() == load_file(folder + "/model.safetensors").keys()
torch.testing.assert_close(logits(load(out + "/merged")), after, rtol=1e-4, atol=1e-4)

model = load(folder)
train(model)
after = logits(model)
assert not torch.allclose(after, before, atol=1e-3)
model.save_pretrained(out + "/tuned")
torch.testing.assert_close(logits(load(out + "/tuned")), after)
"""


@pytest.mark.parametrize(
    "loading",
    ['LOADING = {"trust_remote_code": True}', "LOADING = {}\nimport ranksieve.hf"],
    ids=["code of the folder", "registered"],
)
def test_an_export_is_tuned_and_saved_again(export_plan: ExportPlan, tmp_path: Path, loading: str) -> None:
    list(export(export_plan))
    environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", loading + STEPS, str(export_plan.folder), str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
