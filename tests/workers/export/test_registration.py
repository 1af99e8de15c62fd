"""In processes of their own: what is registered with transformers stays registered."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ranksieve.workers.export.reader import load_folder
from ranksieve.workers.export.writer import Exported, ExportPlan, export

IDS = [[4, 9, 30, 12, 7]]

LOADING = f"""
import sys
import torch, transformers
folder, auto, out = sys.argv[1:]
import ranksieve.hf
model = getattr(transformers, auto).from_pretrained(folder).eval()
assert "transformers_modules" not in sys.modules
with torch.inference_mode():
    torch.save({{"class": type(model).__name__, "y": model(torch.tensor({IDS}))[0]}}, out)
model.save_pretrained(out + ".saved")
"""


def load(plan: ExportPlan, auto: str, out: Path) -> subprocess.CompletedProcess[str]:
    *_, exported = export(plan)
    assert isinstance(exported, Exported)
    (exported.folder / "modeling_ranksieve.py").write_text("raise SystemExit('never run')")
    environment = {**os.environ, "HF_MODULES_CACHE": str(out.parent / "modules"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", LOADING, str(exported.folder), auto, str(out)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("auto", ["AutoModelForCausalLM", "AutoModel"])
@torch.inference_mode()
def test_an_export_is_loaded_without_trusting_its_code(
    export_plan: ExportPlan, tmp_path: Path, auto: str
) -> None:
    done = load(export_plan, auto, tmp_path / "out")
    assert done.returncode == 0, done.stderr
    got, model = torch.load(tmp_path / "out"), load_folder(export_plan.folder)
    part = model if auto == "AutoModelForCausalLM" else model.base_model
    assert (
        got["class"] == f"LowRank{type(part).__bases__[0].__name__ if part is model else type(part).__name__}"
    )
    torch.testing.assert_close(got["y"], part(torch.tensor(IDS))[0], rtol=1e-4, atol=1e-4)
    saved = load_file(tmp_path / "out.saved" / "model.safetensors")
    assert len(saved) == len(part.state_dict())


def test_a_head_that_cannot_carry_the_weights_is_refused(export_plan: ExportPlan, tmp_path: Path) -> None:
    done = load(export_plan, "AutoModelForQuestionAnswering", tmp_path / "out")
    assert done.returncode == 1
    assert "this export has no AutoModelForQuestionAnswering; it has AutoConfig, AutoModel" in done.stderr
