"""Whole jobs, all real but Ray: what a job does, tells and refuses."""

import hashlib
import json
import os
import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard
from local_jobs import Document, Finished, Jobs, LocalCluster
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from ranksieve.search.errors import (
    CancelledError,
    ScoringError,
)
from ranksieve.search.space.matrix import DENSE
from ranksieve.service.job.job import Request
from ranksieve.service.pipeline import steps
from ranksieve.service.pipeline.pipeline import run_job
from ranksieve.service.run.joblog import JobLog
from ranksieve.service.server.settings import Settings
from ranksieve.workers.cache.folders import FolderCache
from ranksieve.workers.types.progress import Progress
from ranksieve.workers.types.scores import Failure, ScoreRequest

BLOCK_PARAMS = 2 * (2 * 16 * 16 + 2 * 8 * 16 + 3 * 16 * 24)  # q and o, k and v, the three of the mlp
EMBEDDING_PARAMS = 208 * 16
NORM_PARAMS = 5 * 16


def test_a_job_goes_through_its_states_and_tells_of_each_stage(undisturbed: Finished) -> None:
    cluster, result, events = undisturbed.cluster, undisturbed.result, undisturbed.events
    states = [data["state"] for data in events("job.state")]
    assert states == ["queued", "validating", "preparing", "searching", "finalizing", "succeeded"]
    assert cluster.phases == ["closed_form", "export", "verify"]
    assert [actors.closed for actors in cluster.actors] == [True]
    (loaded,) = events("data.loaded")
    assert loaded == {
        "splits": {"calibration": 8, "search": 16, "confirm": 32, "test": 64},
        "dropped_duplicates": 0,
        "digests": result["data"],
        "notes": [],
    }
    (model,) = events("model.loaded")
    assert result["model"].items() <= model.items()
    assert (model["matrices"], model["dtype"], model["device"]) == (14, "float32", "cpu")
    assert [data["split"] for data in events("dense.scored")] == ["search", "confirm", "test"]
    assert [data["generation"] for data in events("generation.completed")] == [0, 1, 2, 3]
    (verified,) = events("artifact.verified")
    assert verified["metric"] == pytest.approx(verified["expected"])
    phases = [
        "prepare",
        "dense",
        "search",
        "confirm",
        "test",
        "export",
        "verify",
    ]
    assert list(result["seconds"]) == phases


def test_a_file_is_hashed_once_as_long_as_it_does_not_change(
    jobs: Jobs, short_job: Document, tiny_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed_bytes, digest = list[int](), hashlib.file_digest

    def count(stream: Any, algorithm: Any) -> Any:
        hashed_bytes.append(os.fstat(stream.fileno()).st_size)
        return digest(stream, algorithm)

    monkeypatch.setattr(hashlib, "file_digest", count)
    model_bytes = sum(file.stat().st_size for file in (tiny_root / "model").iterdir())
    jobs.submit(short_job)
    jobs.run(LocalCluster())
    assert sum(hashed_bytes) / model_bytes < 7.5  # what is kept is hashed as it is written
    hashed_bytes.clear()
    jobs.submit(short_job)
    jobs.run(LocalCluster())
    assert hashed_bytes == []


def test_nothing_private_is_in_the_exported_folder(jobs: Jobs, short_job: Document, tiny_root: Path) -> None:
    """No path of this machine, and no name that only the job file holds."""
    data = tiny_root / "clients-of-acme.jsonl"
    data.write_bytes((tiny_root / "films.jsonl").read_bytes())
    short_job["task"]["data"]["source"]["path"] = str(data)
    short_job["model"]["path"] = str(tiny_root / "model")
    short_job["labels"] = {"purchaser": "acme-internal"}
    jobs.submit(short_job)
    folder = Path(jobs.run(LocalCluster())["artifact"])
    data.unlink()
    private = [
        data.stem,
        "acme-internal",
        "purchaser",
        str(tiny_root),
        str(jobs.settings.data_dir),
        str(Path.home()),
    ]
    files = {file.name: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    found = [(name, text) for name, content in files.items() for text in private if text.encode() in content]
    assert not found
    ModelCard(files["README.md"].decode())


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # peft asks for it
def test_an_adapter_is_merged_into_the_model_first(jobs: Jobs, short_job: Document, tiny_root: Path) -> None:
    peft = pytest.importorskip("peft", reason="needs the extra adapter")
    plain, merged = tiny_root / "model", tiny_root / "merged"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = peft.LoraConfig(target_modules=["q_proj", "up_proj"], init_lora_weights=False)
        adapted = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(plain), config)
    adapted.save_pretrained(tiny_root / "adapter")
    shutil.copytree(plain, merged)
    adapted.merge_and_unload().save_pretrained(merged)
    short_job["task"] = {"kind": "lm", "answer": "{{ text }}", "data": short_job["task"]["data"]}

    def dense(model: Document) -> Any:
        jobs.submit(short_job | {"model": {**model, "dtype": "float32"}})
        result = jobs.run(LocalCluster())
        provenance = json.loads((Path(result["artifact"]) / "ranksieve.json").read_text())
        assert provenance["model"]["adapter"] is ("adapter" in model)
        return {name: value for name, value in result["dense"].items() if name != "tokens_per_second"}

    with_adapter = dense({"path": "model", "adapter": "adapter"})
    assert with_adapter == dense({"path": "merged"})
    assert with_adapter != dense({"path": "model"})


def test_the_test_split_is_scored_once_and_last(undisturbed: Finished) -> None:
    splits = [request.split for request in undisturbed.cluster.actors[0].requests]
    assert splits.count("test") == 1
    assert splits[-1] == "test"


def test_the_numbers_add_up_with_tied_embeddings(jobs: Jobs, short_job: Document) -> None:
    short_job["model"]["exclude"] = ["*.k_proj"]
    jobs.submit(short_job)
    result = jobs.run(LocalCluster())
    dense, best = result["dense"], result["best"]
    assert dense["block_params"] == BLOCK_PARAMS
    assert dense["total_params"] == BLOCK_PARAMS + EMBEDDING_PARAMS + NORM_PARAMS  # the head is the embedding
    shapes = {"q_proj": 32, "v_proj": 24, "o_proj": 32, "gate_proj": 40, "up_proj": 40, "down_proj": 40}
    dense_params = {"q_proj": 256, "v_proj": 128, "o_proj": 256, "gate_proj": 384, "up_proj": 384}
    kept = 2 * 8 * 16  # k_proj of both layers is left as it is
    for name, rank in result["ranks"].items():
        kind = name.rsplit(".", 1)[1]
        kept += rank * shapes[kind] if rank >= 0 else dense_params.get(kind, 384)
    assert best["block_params"] == kept
    assert best["kept_block_params"] == kept / BLOCK_PARAMS
    assert best["total_params"] == kept + EMBEDDING_PARAMS + NORM_PARAMS
    assert not any(name.endswith("k_proj") for name in result["ranks"])
    assert best["kl_nats"].keys() == best["metric"].keys() == {"search", "confirm", "test"}


def test_the_experts_of_a_mixture_are_searched_and_exported(
    jobs: Jobs, tiny_job: Document, tiny_mixture: str
) -> None:
    tiny_job["model"]["path"] = tiny_mixture
    tiny_job["policy"]["search"]["generations"] = 1
    tiny_job["search"] = {"constraints": [{"matrices": ["*.experts.*"], "tied": "layer"}]}
    id, cluster = jobs.submit(tiny_job), LocalCluster()
    result = jobs.run(cluster)
    (model,) = jobs.events(id, "model.loaded")
    assert model["matrices"] == 2 * (4 + 4 * 2)  # attention; each expert's two
    assert result["best"]["kept_block_params"] <= 0.4 + 2 * 4 * 16 / model["block_params"]  # routers stay
    (verified,) = jobs.events(id, "artifact.verified")
    assert verified["metric"] == pytest.approx(verified["expected"])
    stored = load_file(Path(result["artifact"]) / "model.safetensors")
    assert any(".mlp.experts.3." in name for name in stored)


def test_constraints_go_through_a_whole_job(jobs: Jobs, tiny_job: Document) -> None:
    tiny_job["search"] = {
        "constraints": [
            {"matrices": ["q_proj", "k_proj", "v_proj"], "tied": "layer"},
            {"matrices": ["down_proj"], "tied": "all", "density": [0.2, 1]},
            {"matrices": ["0.self_attn.o_proj"], "density": [1, 1]},
        ]
    }
    id, cluster = jobs.submit(tiny_job), LocalCluster()
    result = jobs.run(cluster)
    names = list(result["ranks"])
    assert len(names) == 14
    assert len(result["genome"]) == 8  # q, k and v are one of each layer, down one of both, o of layer 0 none
    asked = {request.ranks for request in cluster.actors[0].requests}
    assert len(asked) > 10
    for ranks in asked:
        by_name = {name.removeprefix("model.layers."): rank for name, rank in zip(names, ranks, strict=True)}
        assert by_name["0.self_attn.o_proj"] == DENSE
        assert by_name["0.mlp.down_proj"] == by_name["1.mlp.down_proj"] != 0
        assert all(by_name[f"{i}.self_attn.k_proj"] == by_name[f"{i}.self_attn.v_proj"] for i in (0, 1))
    assert result["best"]["kept_block_params"] <= 0.4
    reported = {tuple(row["ranks"]) for row in jobs.store.memo(id)}
    assert reported <= asked
    (ranks,) = {tuple(row["ranks"]) for row in jobs.store.memo(id) if row["genome"] == result["genome"]}
    exported = tuple(result["ranks"].values())
    assert all(a == b or b == 0 for a, b in zip(ranks, exported, strict=True))  # 0: its sublayer is gone


def test_trained_factors_are_searched_exported_and_named_as_such(
    jobs: Jobs, tiny_job: Document, undisturbed: Finished
) -> None:
    untrained = undisturbed.result
    tiny_job["policy"]["search"]["generations"] = 1
    tiny_job["policy"] |= {"train_epochs": 8, "train_rate": 3e-3}
    id = jobs.submit(tiny_job)
    result = jobs.run(LocalCluster())
    assert {e["phase"] for e in jobs.events(id, "phase.progress")} >= {"training", "search"}
    assert (untrained["train_epochs"], result["train_epochs"]) == (0, 8)
    assert result["best"]["kl_nats"]["search"] != untrained["best"]["kl_nats"]["search"]
    card = (Path(result["artifact"]) / "README.md").read_text()
    assert "trained for 8 epochs" in card
    assert "trained for" not in (Path(untrained["artifact"]) / "README.md").read_text()
    (verified,) = jobs.events(id, "artifact.verified")
    assert verified["metric"] == pytest.approx(verified["expected"])


def test_a_tuned_model_is_cut_and_is_what_drops_are_measured_from(
    jobs: Jobs, tiny_job: Document, tiny_root: Path, undisturbed: Finished
) -> None:
    labels = ["good" if i % 2 else "bad" for i in range(200)]
    records = [{"text": f"{label} film {i}", "label": label} for i, label in enumerate(labels)]
    (tiny_root / "clear.jsonl").write_text("\n".join(map(json.dumps, records)))
    tiny_job["task"]["data"] |= {
        "source": {"path": "clear.jsonl"},
        "sizes": tiny_job["task"]["data"]["sizes"] | {"calibration": 64},
    }
    tiny_job["policy"]["search"]["generations"] = 1
    tiny_job["policy"] |= {"train_epochs": 10, "tune_rate": 2e-4, "train_rate": 1e-3}
    tiny_job["objective"] = {"kind": "target_params", "share": 0.25}  # of two blocks, one stays
    id = jobs.submit(tiny_job)
    result = jobs.run(LocalCluster())
    (event,) = jobs.events(id, "model.tuned")
    assert (event["blocks"], event["all_blocks"], event["used"]) == (1, 2, True)
    reference, dense, best = result["reference"], result["dense"], result["best"]
    assert (reference["tuned"], reference["blocks"]) == (True, [1, 2])
    assert reference["metric"]["search"] >= max(dense["metric"]["search"], dense["helped"]["search"])
    assert dense["block_params"] == undisturbed.result["dense"]["block_params"] == BLOCK_PARAMS
    assert dense["file_bytes"] == undisturbed.result["dense"]["file_bytes"]
    drop = best["drop"]["test"]["drop_points"]
    assert drop == pytest.approx(100 * (reference["metric"]["test"] - best["metric"]["test"]))
    drop = best["drop_from_dense"]["test"]["drop_points"]
    assert drop == pytest.approx(100 * (dense["metric"]["test"] - best["metric"]["test"]))
    assert best["kept_block_params"] <= 0.25
    assert all(".layers.0." in name for name in result["ranks"])
    config = json.loads((Path(result["artifact"]) / "config.json").read_text())
    assert config["num_hidden_layers"] == 1
    (verified,) = jobs.events(id, "artifact.verified")
    assert verified["metric"] == pytest.approx(verified["expected"])


def test_an_export_that_contradicts_the_scores_is_refused(jobs: Jobs, short_job: Document) -> None:
    def wrong_on_confirm(request: ScoreRequest, result: Any) -> Any:
        confirm = request.split == "confirm"
        return replace(result, nll_nats=result.nll_nats + 0.2) if confirm else result

    jobs.submit(short_job)
    with pytest.raises(ScoringError, match="the exported model does not reproduce its candidate"):
        jobs.run(LocalCluster(wrong_on_confirm))


def test_a_candidate_that_fails_is_an_event_and_never_wins(jobs: Jobs, short_job: Document) -> None:
    refused: list[tuple[int, ...]] = []

    def fail_the_first(request: ScoreRequest, result: Any) -> Any:
        if not refused and request.split == "search" and set(request.ranks) != {DENSE}:
            refused.append(request.ranks)
        return Failure(reason="not finite") if request.ranks in refused else result

    id = jobs.submit(short_job)
    result = jobs.run(LocalCluster(fail_the_first))
    failed = jobs.events(id, "candidate.failed")
    assert {"reason": "not finite", "generation": 0} in failed
    assert tuple(result["ranks"].values()) not in refused


def test_a_job_is_cancelled_while_its_model_is_fetched(
    jobs: Jobs, tiny_job: Document, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fetch(source: Any, cancelled: threading.Event, on_progress: Callable[[Progress], None]) -> None:
        on_progress(Progress(phase="fetch", done=1, total=2))
        jobs.ask(id, Request.CANCEL)
        assert cancelled.is_set()
        raise CancelledError("the job was cancelled")

    monkeypatch.setattr(steps, "fetch", fetch)
    id = jobs.submit({**tiny_job, "model": {"hub": "some/model"}})
    with pytest.raises(CancelledError):
        jobs.run(LocalCluster())
    assert jobs.events(id, "phase.progress") == [{"phase": "fetch", "done": 1, "total": 2}]


def test_a_cancelled_job_stops_between_batches(jobs: Jobs, tiny_job: Document) -> None:
    jobs.submit(tiny_job)
    job = jobs.store.claims.claim_next()
    assert job is not None
    log = JobLog(jobs.store, job, jobs.settings.jobs_dir / job.id)
    log.cancelled.set()
    with pytest.raises(CancelledError):
        run_job(jobs.settings, LocalCluster(), job, log)  # type: ignore[arg-type]


def test_a_small_cache_keeps_what_the_job_uses_and_nothing_else(
    tiny_root: Path, tmp_path: Path, jobs: Jobs, tiny_job: Document
) -> None:
    tiny_job["policy"]["search"]["generations"] = 0
    settings = Settings(data_dir=tmp_path / "data", roots=[tiny_root], cache_limit_gib=1e-9)
    jobs = Jobs(jobs.store, settings)
    cache = FolderCache(settings.cache_dir)

    def kinds(keys: set[str]) -> list[str]:
        return sorted(key.split("-")[0] for key in keys)

    def run(midway_share: float) -> set[str]:
        tiny_job["policy"] = {**tiny_job["policy"], "midway_share": midway_share}
        jobs.submit(tiny_job)
        jobs.run(LocalCluster())
        return {entry.key for entry in cache.entries()}

    first, second = run(0.4), run(1.0)
    assert kinds(first) == ["midway", "model", "way"]
    assert kinds(second) == ["factors", "model"]
    assert kinds(first & second) == ["model"]
