"""A whole job on a small trained model, through the command line."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Document = dict[str, Any]

STRANGER = """
import json, sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "ranksieve":
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Block())
import transformers
folder, prompt, *choices = sys.argv[1:]
model = transformers.AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
prompts = tokenizer(prompt, return_tensors="pt")
ids = model.generate(input_ids=prompts["input_ids"], attention_mask=prompts["attention_mask"],
                     max_new_tokens=2, do_sample=False)
logits = model(**prompts).logits[0, -1]
answer = max(choices, key=lambda choice: logits[tokenizer.convert_tokens_to_ids(choice)])
print(json.dumps({"params": model.num_parameters(), "answer": answer, "class": type(model).__name__,
                  "generated": ids.shape[1] - prompts["input_ids"].shape[1]}))
"""


def test_run_prints_one_object_and_shows_progress_beside_it(ran: Any, result: Document) -> None:
    assert len(ran.stdout.splitlines()) == 1
    assert result["state"] == "succeeded"
    assert result["job_id"]
    assert (Path(result["artifact"]) / "config.json").is_file()
    assert "generation 0:" in ran.stderr
    assert "loaded back in a fresh process" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_the_result_has_the_numbers_of_both_models(result: Document) -> None:
    dense, best = result["dense"], result["best"]
    for model in (dense, best):
        assert set(model["metric"]) >= {"confirm", "test"}  # the search need not have scored the winner
        assert model["block_params"] > 0
        assert model["file_bytes"] > 4 * model["total_params"]
        assert model["tokens_per_second"] > 0
    assert dense["metric"]["test"] > 0.85  # of two answers; 5 % of the labels are wrong
    assert dense["block_params"] == 2 * (64 * 64 * 2 + 32 * 64 * 2 + 3 * 64 * 128)
    assert best["kept_block_params"] == best["block_params"] / dense["block_params"] < 0.5
    removed = dense["block_params"] - best["block_params"]
    assert dense["total_params"] - best["total_params"] == removed
    assert dense["file_bytes"] - best["file_bytes"] == pytest.approx(4 * removed, rel=0.05)


def test_the_promise_of_the_objective_was_held(result: Document) -> None:
    assert result["promise_held"] is True
    assert result["best"]["drop"]["confirm"]["drop_points"] <= 5.0
    assert result["best"]["metric"]["confirm"] >= result["dense"]["metric"]["confirm"] - 0.05


def test_a_stranger_loads_the_model_without_our_packages(result: Document, tmp_path: Path) -> None:
    prompt = f"Review: {' '.join(['fine1', 'fine2', 'fine3', 'fine4', 'fine5', 'fine6', 'poor1'])} Mood:"
    command = [sys.executable, "-c", STRANGER, result["artifact"], prompt, "good", "bad"]
    environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    loaded = json.loads(done.stdout)
    assert loaded["class"] == "LowRankLlamaForCausalLM"
    assert loaded["params"] == result["best"]["total_params"]
    assert loaded["answer"] == "good"  # of the two, which is all that the task asks for
    assert 1 <= loaded["generated"] <= 2


def test_evaluate_reproduces_the_metric(
    ranksieve: Callable[..., Any], job_file: Path, result: Document
) -> None:
    done = ranksieve("evaluate", result["artifact"], job_file, "--json")
    assert done.returncode == 0, done.stderr
    values = json.loads(done.stdout)
    assert values["metric"] == pytest.approx(result["best"]["metric"]["test"], abs=0.002)
    assert values["examples"] == 512
