"""Jobs of the other kinds of tasks on a small trained model, all real but Ray."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from local_jobs import Jobs
from local_jobs import finish as finish_in_process

from ranksieve.service.server.settings import Settings
from ranksieve.service.store import Store

Document = dict[str, Any]
Finish = Callable[[Document], Document]


@pytest.fixture
def finish(world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Finish:
    """Runs a job in this process; returns its result."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    settings = Settings(data_dir=tmp_path / "data", roots=[world.folder])
    settings.data_dir.mkdir()
    return lambda spec: finish_in_process(Jobs(Store(settings.store_url), settings), spec).result


def test_a_language_modelling_job_for_a_latency_on_this_machine(finish: Finish, spec: Document) -> None:
    data = spec["task"]["data"]
    spec["task"] = {"kind": "lm", "answer": "Review: {{ text }} Mood: {{ label }}", "data": data}
    spec["objective"] = {"kind": "target_latency", "share": 0.85}
    spec["policy"]["search"] |= {"generations": 1, "max_evaluations": 12}
    data["sizes"] |= {"confirm": 64, "test": 64}

    result = finish(spec)

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


def test_a_generation_job_at_a_given_size(finish: Finish, spec: Document) -> None:
    task = {name: value for name, value in spec["task"].items() if name != "choices"}
    spec["task"] = {**task, "kind": "generate", "max_new_tokens": 3}
    spec["task"]["data"]["sizes"] = {"calibration": 64, "search": 64, "confirm": 64, "test": 64}
    spec["objective"] = {"kind": "target_params", "share": 0.3}
    spec["policy"]["search"]["generations"] = 2
    result = finish(spec)
    assert result["metric_name"] == "token_f1"
    assert result["dense"]["metric"]["test"] > 0.8
    assert result["best"]["metric"]["test"] > 0.6
    assert 0.2 < result["best"]["kept_block_params"] <= 0.3
