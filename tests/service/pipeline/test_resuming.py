"""Whole jobs that are cut off, paused, stopped or changed: they end as if nothing had happened, or say why not."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from local_jobs import Document, Finished, Jobs, LocalCluster, essence, forget_a_matrix, switch_off
from safetensors.torch import load_file, save_file

from ranksieve.search.errors import (
    CancelledError,
    InfrastructureError,
    InputError,
    UnresumableError,
)
from ranksieve.service.job.changes import JobChanges
from ranksieve.service.job.job import JobState, Request
from ranksieve.service.pipeline import steps
from ranksieve.workers.factors import closed_form
from ranksieve.workers.types.scores import ScoreRequest


def test_an_interrupted_search_goes_on_from_its_last_generation(
    jobs: Jobs, tiny_job: Document, undisturbed: Finished
) -> None:
    id = jobs.submit(tiny_job)
    switch_off(jobs, lambda _: len(jobs.store.generations(id)) == 2)
    known = {tuple(row["genome"]) for row in jobs.store.memo(id)}
    assert len(jobs.store.generations(id)) == 2

    resumed = LocalCluster()
    result = jobs.run(resumed)

    searched = [r for r in resumed.actors[0].requests if r.split == "search"]
    total = len([r for r in undisturbed.cluster.actors[0].requests if r.split == "search"])
    assert len(searched) == total - len(known)  # nothing that was saved is scored again
    assert essence(result) == essence(undisturbed.result)
    assert [row["generation"] for row in jobs.store.generations(id)] == [0, 1, 2, 3]


def test_a_paused_job_goes_on_to_the_same_result(
    jobs: Jobs, tiny_job: Document, undisturbed: Finished
) -> None:
    id = jobs.submit(tiny_job)

    def pause_in_generation_1(request: ScoreRequest, result: Any) -> Any:
        if len(jobs.store.generations(id)) == 1:
            jobs.ask(id, Request.PAUSE)
        return result

    paused, resumed = LocalCluster(pause_in_generation_1), LocalCluster()
    with pytest.raises(CancelledError):
        jobs.run(paused)
    jobs.store.runs.transition(id, JobState.PAUSED, epoch=jobs.log.job.epoch)
    jobs.store.user_requests.ask(id, Request.RESUME)
    result = jobs.run(resumed)

    assert essence(result) == essence(undisturbed.result)
    scored = [
        [r for r in cluster.actors[0].requests if r.split == "search"]
        for cluster in (undisturbed.cluster, paused, resumed)
    ]
    assert len(scored[1]) > 0
    twice = scored[1] + scored[2]
    for request in scored[0]:
        twice.remove(request)
    assert 0 < len(twice) <= 2  # scored since the last saved generation


def test_a_stopped_job_exports_what_one_with_so_many_generations_does(
    jobs: Jobs, short_job: Document
) -> None:
    short_job["policy"]["search"]["generations"] = 3
    id = jobs.submit(short_job)

    def stop_after_generation_1(request: ScoreRequest, result: Any) -> Any:
        if len(jobs.store.generations(id)) == 2 and request.split == "search":
            jobs.ask(id, Request.STOP)
        return result

    result = jobs.run(LocalCluster(stop_after_generation_1))
    states = [data["state"] for data in jobs.events(id, "job.state")]
    assert states == ["queued", "validating", "preparing", "searching", "stopping", "finalizing", "succeeded"]
    assert (result["search_ended"], result["generations"]) == ("stopped", 1)

    short_job["policy"]["search"]["generations"] = 1
    jobs.submit(short_job)
    shorter = jobs.run(LocalCluster())
    assert shorter["search_ended"] == "by itself"
    assert essence({**shorter, "search_ended": "stopped"}) == essence(result)


def test_a_job_killed_after_its_search_only_repeats_the_rest(jobs: Jobs, short_job: Document) -> None:
    id = jobs.submit(short_job)

    switch_off(jobs, lambda request: request.split == "test")
    resumed = LocalCluster()
    assert jobs.run(resumed)["best"]["kept_block_params"] <= 0.4
    assert {request.split for request in resumed.actors[0].requests} == {"confirm", "test"}
    states = [data["state"] for data in jobs.events(id, "job.state")]
    assert states[-6:] == ["finalizing", "validating", "preparing", "searching", "finalizing", "succeeded"]


def test_a_job_is_given_and_taken_actors_as_it_runs_with_the_same_result(
    jobs: Jobs, tiny_job: Document, undisturbed: Finished
) -> None:
    id, wanted = jobs.submit(tiny_job), []

    def change(request: ScoreRequest, result: Any) -> Any:
        if request.split != "search" or len(wanted) < 3:
            actors = 1 + len(wanted) % 5
            jobs.log.update(jobs.store.user_requests.change(id, JobChanges(actors=actors)))
            wanted.append((actors, cluster.shares[0].claim.wants))
        return result

    cluster = LocalCluster(change)
    assert essence(jobs.run(cluster)) == essence(undisturbed.result)
    assert len(wanted) > 5
    assert all(asked == wants for asked, wants in wanted)
    states = [data["state"] for data in jobs.events(id, "job.state")]
    assert states == ["queued", "validating", "preparing", "searching", "finalizing", "succeeded"]  # one run


def test_a_search_without_a_saved_generation_begins_anew_with_other_factors(
    jobs: Jobs, tiny_job: Document, undisturbed: Finished, monkeypatch: pytest.MonkeyPatch
) -> None:
    id = jobs.submit(tiny_job)

    def pause_among_the_seeds(request: ScoreRequest, result: Any) -> Any:
        if request.split == "search" and paused.actors[0].requests:
            jobs.ask(id, Request.PAUSE)
        return result

    paused, resumed = LocalCluster(pause_among_the_seeds), LocalCluster()
    with pytest.raises(CancelledError):
        jobs.run(paused)
    jobs.store.runs.transition(id, JobState.PAUSED, epoch=jobs.log.job.epoch)
    jobs.store.user_requests.ask(id, Request.RESUME)
    monkeypatch.setattr(closed_form, "FORMAT", -1)  # another version makes other factors
    assert essence(jobs.run(resumed)) == essence(undisturbed.result)
    asked = [len(cluster.actors[0].requests) for cluster in (undisturbed.cluster, resumed)]
    assert asked[0] == asked[1] > 0


def test_a_job_that_would_score_otherwise_than_it_did_does_not_go_on(
    jobs: Jobs, short_job: Document, monkeypatch: pytest.MonkeyPatch
) -> None:
    id = jobs.submit(short_job)
    switch_off(jobs, lambda request: request.split == "confirm" and jobs.log.search_state() is not None)
    monkeypatch.setattr(closed_form, "FORMAT", -1)  # another version makes other factors
    with pytest.raises(UnresumableError, match=f"job {id} would score differently than before"):
        jobs.run(LocalCluster())


def test_a_job_does_not_go_on_with_other_records_weights_or_matrices(
    jobs: Jobs, tiny_job: Document, tiny_root: Path, tmp_path: Path
) -> None:
    mine = tmp_path / "mine"
    shutil.copytree(tiny_root, mine)
    jobs.settings.roots.append(mine)
    tiny_job["model"]["path"] = str(mine / "model")
    tiny_job["task"]["data"]["source"]["path"] = str(mine / "films.jsonl")
    id = jobs.submit(tiny_job)
    switch_off(jobs, lambda _: True)

    def refuse(words: str) -> LocalCluster:
        cluster = LocalCluster()
        with pytest.raises(InputError, match=words):
            jobs.run(cluster)
        return cluster

    file = mine / "films.jsonl"
    before = file.read_text()
    file.write_text(before.replace("film 1", "film 9"))
    refuse("task.data: is not what it was when job .* ran")
    file.write_text(before)

    file = mine / "model" / "model.safetensors"
    tensors = load_file(file)
    save_file({name: 2 * tensor for name, tensor in tensors.items()}, file, {"format": "pt"})
    refuse("model: has other weights than when job .* ran")
    save_file(tensors, file, {"format": "pt"})

    forget_a_matrix(tmp_path / "data" / "jobs" / id)
    cluster = refuse(f"model: has other matrices to prune than when job {id} ran")
    assert not cluster.phases  # nothing is prepared for it


def test_a_search_that_has_begun_needs_the_files_of_its_seeds_no_more(
    jobs: Jobs, short_job: Document, undisturbed: Finished, tmp_path: Path
) -> None:
    artifact = Path(undisturbed.result["artifact"])
    jobs.settings.roots.append(tmp_path / "mine")
    (tmp_path / "mine").mkdir()
    seed = Path(shutil.copy(artifact / "ranksieve.json", tmp_path / "mine" / "seed.json"))
    short_job["policy"]["search"]["generations"] = 2
    short_job["search"] = {"seeds": [{"path": str(seed)}]}
    jobs.submit(short_job)
    expected = jobs.run(LocalCluster())
    id = jobs.submit(short_job)

    switch_off(jobs, lambda _: len(jobs.store.generations(id)) == 1)
    seed.unlink()
    assert jobs.run(LocalCluster())["genome"] == expected["genome"]
    jobs.export(id, share=1)
    assert jobs.run(LocalCluster())["ranks"]


def test_every_worker_of_a_job_takes_the_dtype_that_was_settled_at_first(
    jobs: Jobs, short_job: Document, monkeypatch: pytest.MonkeyPatch
) -> None:
    short_job["model"]["dtype"] = "auto"
    short_job["objective"] = {
        "kind": "target_bytes",
        "size": 22_000,
    }  # the dense model in bfloat16 is smaller
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})  # of nodes that differ
    monkeypatch.setattr(steps, "dtype_name", lambda wanted, device: "float32")
    id = jobs.submit(short_job)
    switch_off(jobs, lambda _: True)
    monkeypatch.setattr(steps, "dtype_name", lambda wanted, device: "bfloat16")
    jobs.run(LocalCluster())
    export = jobs.export(id, share=1.0)
    jobs.run(LocalCluster())
    dtypes = [event["dtype"] for event in jobs.events(id, "model.loaded")]
    assert (dtypes, jobs.store.job(export.id).state) == (["float32"] * 2, "succeeded")


def test_a_job_that_is_taken_up_again_keeps_its_table(
    jobs: Jobs, fast: Document, timed: Finished, make_flop_timer: Any
) -> None:
    expected = timed.result
    id = jobs.submit(fast)

    switch_off(jobs, lambda _: len(jobs.store.generations(id)) == 1, make_flop_timer)

    class OtherMachine(make_flop_timer):  # type: ignore[misc]
        def collect(self) -> list[int]:
            return [spent**2 for spent in super().collect()]

    resumed = LocalCluster(make_timer=OtherMachine)
    result = jobs.run(resumed)
    assert "measure_latency" not in resumed.phases
    assert len(jobs.events(id, "latency.measured")) == 1
    assert result["latency_table"] == expected["latency_table"]
    assert result["genome"] == expected["genome"]


def test_a_table_settles_the_dtype(
    jobs: Jobs, fast: Document, make_flop_timer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    fast["model"]["dtype"] = "auto"
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    monkeypatch.setattr(steps, "dtype_name", lambda wanted, device: "float32")
    fast["policy"]["train_epochs"] = 1
    fast["policy"]["search"]["generations"] = 0
    id = jobs.submit(fast)
    with monkeypatch.context() as cut:
        cut.setattr(steps, "prepare", off)
        with pytest.raises(InfrastructureError):
            jobs.run(LocalCluster(make_timer=make_flop_timer))
    assert len(jobs.events(id, "latency.measured")) == 1
    monkeypatch.setattr(steps, "dtype_name", lambda wanted, device: "bfloat16")  # another node
    jobs.run(LocalCluster(make_timer=make_flop_timer))
    assert [event["dtype"] for event in jobs.events(id, "model.loaded")] == ["float32"]


def off(plan: Any) -> Iterator[Any]:
    """A phase under which the machine fails."""
    raise InfrastructureError("the machine was switched off")
