"""Whole jobs whose answers are written, or are whole texts; all real but Ray."""

from pathlib import Path

import pytest
from local_jobs import Document, Jobs, LocalCluster


def test_a_model_that_writes_answers_is_tuned_with_all_its_blocks(jobs: Jobs, tiny_job: Document) -> None:
    tiny_job["task"] |= {"kind": "generate", "choices": None, "max_new_tokens": 4}
    tiny_job["policy"]["search"]["generations"] = 1
    tiny_job["policy"] |= {"train_epochs": 4, "tune_rate": 2e-4, "train_rate": 1e-3}
    tiny_job["objective"] = {"kind": "target_params", "share": 0.5}
    id = jobs.submit(tiny_job)
    result = jobs.run(LocalCluster())
    (event,) = jobs.events(id, "model.tuned")
    assert (event["blocks"], event["all_blocks"], event["used"]) == (2, 2, True)
    reference, dense, best = result["reference"], result["dense"], result["best"]
    assert (reference["tuned"], reference["blocks"]) == (True, [2, 2])
    assert event["helped"] == event["dense"] == dense["metric"]["search"]
    assert dense["helped"] == dense["metric"]
    phases = {event["phase"] for event in jobs.events(id, "phase.progress")}
    assert phases >= {"tuning", "training"}
    drop = best["drop_from_dense"]["test"]["drop_points"]
    assert drop == pytest.approx(100 * (dense["metric"]["test"] - best["metric"]["test"]))
    card = (Path(result["artifact"]) / "README.md").read_text()
    assert "First the dense model was tuned" in card
    (verified,) = jobs.events(id, "artifact.verified")
    assert verified["metric"] == pytest.approx(verified["expected"])


def test_whole_texts_are_trained_for_without_tuning(jobs: Jobs, tiny_job: Document) -> None:
    data = tiny_job["task"]["data"]
    tiny_job["task"] = {"kind": "lm", "answer": "Review: {{ text }} Mood: {{ label }}", "data": data}
    tiny_job["policy"]["search"]["generations"] = 1
    tiny_job["policy"] |= {"train_epochs": 4, "train_rate": 1e-3}
    tiny_job["objective"] = {"kind": "target_params", "share": 0.5}
    id = jobs.submit(tiny_job)
    result = jobs.run(LocalCluster())
    assert not jobs.events(id, "model.tuned")
    phases = {event["phase"] for event in jobs.events(id, "phase.progress")}
    assert "training" in phases
    assert "tuning" not in phases
    assert result["metric_name"] == "perplexity"
    (verified,) = jobs.events(id, "artifact.verified")
    assert verified["metric"] == pytest.approx(verified["expected"])
