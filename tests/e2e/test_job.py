"""A whole job on a small trained model: through the command line, and through a server in this process."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tuning import tune

from ranksieve.api.cli.embedded import embedded
from ranksieve.api.client.client import Client
from ranksieve.service.server.settings import Settings
from ranksieve.service.wiring import build

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


@pytest.fixture(scope="module")
def spec_file(world: Any, base_spec: Document) -> Path:
    file: Path = world.spec_file("moods", base_spec)
    return file


@pytest.fixture(scope="module")
def ran(
    ranksieve: Callable[..., Any],
    spec_file: Path,
    base_spec: Document,
    tmp_path_factory: pytest.TempPathFactory,
) -> Any:
    """`ranksieve run SPEC --json`, with two actors."""
    options = ("--json", "--data-dir", tmp_path_factory.mktemp("run") / "data")
    return ranksieve("run", spec_file, *options, constants={"policy": base_spec["policy"]})


@pytest.fixture(scope="module")
def result(ran: Any) -> Document:
    assert ran.returncode == 0, ran.stderr
    result: Document = json.loads(ran.stdout)
    return result


@pytest.fixture(scope="module")
def client(world: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """The whole service in this process."""
    settings = Settings(data_dir=tmp_path_factory.mktemp("embedded") / "data", roots=[world.folder])
    with embedded(build(settings)) as client:
        yield client


def finish(client: Client, spec: Document) -> Document:
    job = client.submit(tune(spec))
    for _ in client.events(job["id"]):
        pass
    job = client.job(job["id"])
    assert job["state"] == "succeeded", job["error"]
    result: Document = job["result"]
    return result


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
    assert result["best"]["drop_points"]["confirm"][0] <= 5.0
    assert result["best"]["metric"]["confirm"] >= result["dense"]["metric"]["confirm"] - 0.05


def test_a_stranger_loads_the_model_without_our_packages(
    world: Any, result: Document, tmp_path: Path
) -> None:
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
    ranksieve: Callable[..., Any], spec_file: Path, result: Document
) -> None:
    done = ranksieve("evaluate", result["artifact"], spec_file, "--json")
    assert done.returncode == 0, done.stderr
    values = json.loads(done.stdout)
    assert values["metric"] == pytest.approx(result["best"]["metric"]["test"], abs=0.002)
    assert values["examples"] == 512


def test_another_data_directory_and_number_of_actors_give_the_same_result(
    client: Client, spec: Document, result: Document, essence: Callable[[Document], Document]
) -> None:
    spec["resources"]["actors"] = 1
    again, before = essence(finish(client, spec)), essence(result)
    for name in ("genome", "evaluations", "tokens", "data", "promise_held"):
        assert again[name] == before[name]
    assert again["dense"] == before["dense"]
    assert again["best"].pop("kl_nats") == pytest.approx(before["best"].pop("kl_nats"), abs=1e-5)
    assert again["best"] == before["best"]


def test_a_language_modelling_job_for_a_latency_on_this_machine(client: Client, spec: Document) -> None:
    data = spec["task"]["data"]
    spec["task"] = {"kind": "lm", "answer": "Review: {{ text }} Mood: {{ label }}", "data": data}
    spec["objective"] = {"kind": "target_latency", "share": 0.85}
    spec["policy"]["search"] |= {"generations": 1, "max_evaluations": 12}
    data["sizes"] |= {"confirm": 64, "test": 64}

    result = finish(client, spec)

    assert result["metric_name"] == "perplexity"
    dense, best = result["dense"]["metric"]["test"], result["best"]["metric"]["test"]
    assert 1 < dense < 20  # of 47 words; half of the words fit a mood
    assert best <= 1.2 * dense
    latency, table = result["latency"], result["latency_table"]
    assert latency["expected_share"] <= latency["target_share"] <= 0.85
    assert latency["measured_dense_ms"] > 0
    assert latency["measured_ms"] > 0
    rows, length = 69, 11  # a batch of 768 tokens; of a record's 12, the last is not read
    assert table["workload"] == {"kind": "prefill", "rows": rows, "length": length}
    assert {name for curve in table["table"]["curves"] for name in curve["matrices"]} == set(result["ranks"])


def test_a_generation_job_at_a_given_size(client: Client, spec: Document) -> None:
    task = {name: value for name, value in spec["task"].items() if name != "choices"}
    spec["task"] = {**task, "kind": "generate", "max_new_tokens": 3}
    spec["task"]["data"]["sizes"] = {"calibration": 64, "search": 64, "confirm": 64, "test": 64}
    spec["objective"] = {"kind": "target_params", "share": 0.3}
    spec["policy"]["search"]["generations"] = 2
    result = finish(client, spec)
    assert result["metric_name"] == "token_f1"
    assert result["dense"]["metric"]["test"] > 0.8
    assert result["best"]["metric"]["test"] > 0.6
    assert 0.2 < result["best"]["kept_block_params"] <= 0.3
