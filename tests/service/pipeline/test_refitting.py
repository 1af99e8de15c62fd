"""Whole jobs: which finalists are refit, and what goes with it into the export."""

import json
from pathlib import Path

import pytest
import torch
from local_jobs import (
    Document,
    Finished,
    Jobs,
    LocalCluster,
    shorten,
    weights,
    winner_of,
)
from safetensors.torch import load_file

from ranksieve.search.evolution.finalists import MOST_FINALISTS
from ranksieve.search.evolution.schedules import SEED_SHARES
from ranksieve.search.space.matrix import DENSE
from ranksieve.workers.factors import preparation
from ranksieve.workers.factors.prepared import Propagation
from ranksieve.workers.factors.propagation import AROUND


def test_a_finalist_that_gains_by_refitting_is_exported_refit(jobs: Jobs, tiny_job: Document) -> None:
    tiny_job["policy"] |= {"method": "weight", "refit": 1.0, "kl_weight": 1.0}
    tiny_job["policy"]["search"]["generations"] = 0
    id, cluster = jobs.submit(tiny_job), LocalCluster()
    result = jobs.run(cluster)
    events = jobs.events(id, "finalist.refit")
    assert [refit["kept"] for refit in events] == [
        refit["loss_after"] < refit["loss_before"] for refit in events
    ]
    assert all(refit["kept"] for refit in events)
    assert result["refit"] is True
    assert result["best"]["kl_nats"]["search"] in [refit["loss_after"] for refit in events]
    (verified,) = jobs.events(id, "artifact.verified")
    assert verified["metric"] == pytest.approx(verified["expected"])
    card = (Path(result["artifact"]) / "README.md").read_text(encoding="utf-8")
    assert "left factors refit" in card


@pytest.mark.parametrize("actors", [1, 3])
def test_only_finalists_that_are_looked_at_are_refit_and_those_that_fill_the_actors(
    jobs: Jobs, max_drop: Document, actors: int
) -> None:
    max_drop["resources"]["actors"] = actors
    id, cluster = jobs.submit(shorten(max_drop)), LocalCluster()
    result = jobs.run(cluster)
    refit, confirmed = cluster.actors[0].others["refit"], len(result["finalists"])
    assert len({request.file for request in refit}) == len(refit) == len(jobs.events(id, "finalist.refit"))
    assert confirmed <= len(refit) <= confirmed + (actors - 1) * confirmed
    if actors == 1:
        assert 1 < len(refit) == confirmed < MOST_FINALISTS
    reported = [data for data in jobs.events(id, "phase.progress") if data["phase"] == "refit"]
    done = [data["done"] for data in reported]
    assert done == sorted(done)
    (end,) = [
        data["done"] for data in reported if data["done"] == data["total"]
    ]  # once, not after every batch
    assert end == done[-1] == len(refit)
    assert all(request.answer_bias for request in refit)


def test_right_answers_have_no_say_in_a_refit_where_the_loss_is_the_kl(archive: Finished) -> None:
    refit = archive.cluster.actors[0].others["refit"]
    assert refit
    assert not any(request.answer_bias for request in refit)


def test_nothing_is_refit_where_the_job_says_so(jobs: Jobs, short_job: Document) -> None:
    short_job["policy"]["refit"] = None
    id, cluster = jobs.submit(short_job), LocalCluster()
    result = jobs.run(cluster)
    assert result["refit"] is False
    assert "refit" not in result["seconds"]
    assert not cluster.actors[0].others["refit"]
    assert not jobs.events(id, "finalist.refit")


def test_what_goes_with_propagated_factors_is_scored_confirmed_and_exported(
    jobs: Jobs, max_drop: Document, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The export, loaded back, does what was confirmed, and has a bias of the head."""
    monkeypatch.setattr(Propagation, "kept", True)
    monkeypatch.setattr(
        preparation, "example_losses", lambda model, *_: torch.tensor([float(model.answer_bias is None)])
    )
    max_drop["policy"]["refit"] = None
    max_drop["policy"]["search"]["generations"] = 0
    max_drop["objective"]["points"] = 5.0
    cluster = LocalCluster()
    id = jobs.submit(max_drop)
    result = jobs.run(cluster)
    assert "propagated" in cluster.phases
    (propagated,) = jobs.events(id, "factors.propagated")
    smallest = propagated["shares"][0] / AROUND[0]
    assert smallest == pytest.approx(min(SEED_SHARES, key=lambda share: abs(share - smallest)))
    tensors = load_file(Path(result["artifact"]) / "model.safetensors")
    assert tensors["lm_head.bias"].any()
    assert result["best"]["total_params"] == sum(tensor.numel() for tensor in tensors.values())
    jobs.export(id, candidate=next(row["id"] for row in jobs.store.front(id) if -1 not in row["genome"]))
    another = jobs.run(LocalCluster())
    again = load_file(Path(another["artifact"]) / "model.safetensors")
    assert again["lm_head.bias"].equal(tensors["lm_head.bias"])


@pytest.fixture
def mostly_good(tiny_job: Document, tiny_root: Path) -> Document:
    """A job whose records call nine films in ten good, which its model does not: a bias for the answers gains."""
    records = [{"text": f"film {i}", "label": "bad" if i % 10 == 0 else "good"} for i in range(200)]
    (tiny_root / "mostly_good.jsonl").write_text("\n".join(map(json.dumps, records)))
    tiny_job["task"]["data"] = {
        "source": {"path": "mostly_good.jsonl"},
        "sizes": {"calibration": 64, "search": 16, "confirm": 32, "test": 64},
    }
    tiny_job["policy"]["kl_weight"] = 0.0
    tiny_job["objective"] = {"kind": "target_params", "share": 0.5}
    return shorten(tiny_job)


def test_a_bias_for_the_answers_is_counted_and_exported(
    jobs: Jobs, mostly_good: Document, tmp_path: Path
) -> None:
    id = jobs.submit(mostly_good)
    jobs.run(LocalCluster())
    result, winner = winner_of(jobs, id)
    assert result["refit"] is True
    tensors = load_file(Path(result["artifact"]) / "model.safetensors")
    assert len(tensors["lm_head.bias"]) == 208
    assert result["best"]["total_params"] == sum(tensor.numel() for tensor in tensors.values())
    card = (Path(result["artifact"]) / "README.md").read_text(encoding="utf-8")
    assert "the output head was given a bias for the answers" in card
    jobs.export(id, candidate=winner)
    exported = jobs.run(LocalCluster())
    assert weights(exported) == weights(result)
    assert exported["best"]["total_params"] == result["best"]["total_params"]


def test_the_dense_model_is_never_refit(jobs: Jobs, mostly_good: Document) -> None:
    mostly_good["objective"]["share"] = 1.0
    id, cluster = jobs.submit(mostly_good), LocalCluster()
    result = jobs.run(cluster)
    refit = cluster.actors[0].others["refit"]
    assert all(set(request.ranks) != {DENSE} for request in refit)
    assert 1.0 in [finalist["kept_share"] for finalist in result["finalists"]]
    assert 1.0 not in [event["kept_share"] for event in jobs.events(id, "finalist.refit")]
