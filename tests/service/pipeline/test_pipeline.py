"""Whole jobs on a tiny model, all real but Ray: phases and actors run in this process. The last test has that, too."""

import json
import math
import shutil
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tuning import tune

from ranksieve.search.errors import (
    CancelledError,
    ConflictError,
    InfrastructureError,
    InputError,
    NotFoundError,
    ScoringError,
    UnresumableError,
)
from ranksieve.search.evolution.finalists import MOST_FINALISTS
from ranksieve.search.evolution.schedules import SEED_SHARES
from ranksieve.search.space.matrix import DENSE
from ranksieve.service.application import Application
from ranksieve.service.job import matrices
from ranksieve.service.job.changes import JobChanges
from ranksieve.service.job.export import Export
from ranksieve.service.job.exports import export_of
from ranksieve.service.job.job import Job, JobState, Request
from ranksieve.service.pipeline import steps
from ranksieve.service.pipeline.materializer import Materializer
from ranksieve.service.pipeline.pipeline import Pipeline
from ranksieve.service.run.feed import Feed
from ranksieve.service.run.forking import forked
from ranksieve.service.run.joblog import JobLog
from ranksieve.service.server.settings import Settings
from ranksieve.service.spec import JobSpec
from ranksieve.service.spec.job import PROPAGATED_AROUND, REWEIGH_PASSES
from ranksieve.service.store import Store
from ranksieve.service.wiring import build
from ranksieve.workers.cache.folders import FolderCache
from ranksieve.workers.cluster.actor import ScorerPlan, build_scorer
from ranksieve.workers.cluster.fairness import amounts
from ranksieve.workers.cluster.shares import Share, Sharing
from ranksieve.workers.factors import closed_form, preparation
from ranksieve.workers.factors.prepared import Propagation
from ranksieve.workers.factors.propagation import AROUND
from ranksieve.workers.types.plan import EncodedTask
from ranksieve.workers.types.progress import Progress
from ranksieve.workers.types.scores import Failure, ScoreRequest

Document = dict[str, Any]
Meddle = Callable[[ScoreRequest, Any], Any]

MOST_S = 400
"""Longest wait for what another thread does, on however busy a machine."""

BLOCK_PARAMS = 2 * (2 * 16 * 16 + 2 * 8 * 16 + 3 * 16 * 24)  # q and o, k and v, the three of the mlp
EMBEDDING_PARAMS = 208 * 16
NORM_PARAMS = 5 * 16


class LocalActors:
    """Scores requests one by one in this process; `meddle` may change or refuse what comes out."""

    def __init__(self, scorer: Any, meddle: Meddle, cancelled: threading.Event) -> None:
        self._scorer = scorer
        self._meddle = meddle
        self._cancelled = cancelled
        self.requests: list[ScoreRequest] = []
        self.others: dict[str, list[Any]] = {"refit": [], "react": []}
        self.closed = False

    def run(
        self,
        method: str,
        requests: Sequence[ScoreRequest],
        on_done: Callable[[int], None] = lambda done: None,
        timeouts: float = 1.0,
    ) -> list[Any]:
        if method in ("refit", "react"):
            self.others[method] += requests
            return [getattr(self._scorer, method)(request) for request in requests]
        results = []
        for request in requests:
            result = getattr(self._scorer, method)(request)
            if method == "score_dense":
                scores, beliefs = result
                results.append((self._meddle(request, scores), beliefs))
            else:
                results.append(self._meddle(request, result))
            on_done(len(results))
        self.requests += [] if method == "score_dense" else requests
        return results

    def stream(
        self, method: str, take: Callable[[int], Iterable[tuple[Any, ScoreRequest]]]
    ) -> Iterator[tuple[Any, Any]]:
        while taken := list(take(2)):
            for key, request in reversed(taken):  # whoever started last is done first
                if self._cancelled.is_set():
                    raise CancelledError("the job was cancelled")
                (result,) = self.run(method, [request])
                yield key, result

    def set_beliefs(self, beliefs: Any) -> None:
        self._scorer.set_beliefs(beliefs)

    def close(self) -> None:
        self.closed = True


class LocalCluster:
    """Stands in for `workers.cluster.session.Cluster`; runs phases here, and keeps the actors it started."""

    def __init__(self, meddle: Meddle = lambda request, result: result, make_timer: Any = None) -> None:
        self.meddle = meddle
        self.make_timer = make_timer
        self.actors: list[LocalActors] = []
        self.phases: list[str] = []
        self.shares: list[Share] = []

    @contextmanager
    def share(self, job: str, *, actors: int, threads: int, gpus: float, **options: Any) -> Iterator[Share]:
        capacity, size = amounts(CPU=8), amounts(CPU=threads, GPU=gpus)
        with Sharing().enter(job, capacity, size, limit=actors, **options) as share:
            self.shares.append(share)
            yield share

    def run(
        self,
        phase: Callable[..., Iterator[Any]],
        *arguments: Any,
        share: Share,
        cancelled: threading.Event,
        on_progress: Callable[[Progress], None],
        environment: Mapping[str, str] | None = None,
        workers: int = 1,
    ) -> Any:
        self.phases.append(phase.__name__)
        if self.make_timer is not None and phase.__name__ in ("measure_latency", "verify"):
            arguments = (*arguments, self.make_timer)
        item = None
        for item in phase(*arguments):
            if cancelled.is_set():
                raise CancelledError("the job was cancelled")
            if isinstance(item, Progress):
                on_progress(item)
        return item

    def dispatcher(self, plan: ScorerPlan, task: EncodedTask, **options: Any) -> LocalActors:
        options["share"].use(math.inf)
        self.actors.append(LocalActors(build_scorer(plan, task), self.meddle, options["cancelled"]))
        return self.actors[-1]


class Jobs:
    """A store whose jobs are run by hand."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self.store = store
        self._settings = settings

    def submit(self, spec: Document) -> str:
        return self.store.submissions.create_job(JobSpec.model_validate(tune(spec))).id

    def run(self, cluster: LocalCluster) -> Document:
        """Claims the next job, as the controller does, and runs it; cut off, it can be claimed at once."""
        job = self.store.claims.claim_next(lease_s=0)
        assert job is not None
        self.log = JobLog(self.store, job, self._settings.jobs_dir / job.id)
        run = Pipeline if job.export is None else Materializer
        result = run(self._settings, cluster)(job, self.log)  # type: ignore[arg-type]
        self.store.runs.transition(job.id, JobState.SUCCEEDED, epoch=job.epoch, result=result)
        return result

    def ask(self, id: str, request: Request) -> None:
        """Passes on to the running pipeline, which holds its job, what its user asks, as the controller does."""
        self.store.claims.renew(id, epoch=self.log.job.epoch)
        self.log.update(self.store.user_requests.ask(id, request))
        self.store.claims.renew(id, lease_s=0, epoch=self.log.job.epoch)

    def export(self, id: str, **asked: Any) -> Job:
        """Asks a job for one more model, as the application does."""
        awake: Any = SimpleNamespace(wake=lambda: None)
        nothing: Any = None
        return Application(self._settings, self.store, awake, Feed(), nothing, nothing).export(id, **asked)

    def events(self, id: str, type: str) -> list[Document]:
        return [event.data for event in self.store.events(id, limit=10_000) if event.type == type]


def switch_off(jobs: Jobs, when: Callable[[ScoreRequest], bool], make_timer: Any = None) -> None:
    """Runs the next job until the machine fails under the first request that it is to fail at."""

    def die(request: ScoreRequest, result: Any) -> Any:
        if when(request):
            raise InfrastructureError("the machine was switched off")
        return result

    with pytest.raises(InfrastructureError, match="switched off"):
        jobs.run(LocalCluster(die, make_timer))


@pytest.fixture
def jobs(tiny_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Jobs]:
    # A real verification runs in a process of its own, which is told this by its environment.
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    settings = Settings(data_dir=tmp_path / "data", roots=[tiny_root])
    settings.data_dir.mkdir()
    store = Store(settings.store_url)
    yield Jobs(store, settings)
    store.close()


@pytest.fixture
def max_drop(tiny_job: Document) -> Document:
    tiny_job["objective"] = {"kind": "max_drop", "points": 30.0}
    return tiny_job


def test_an_export_that_contradicts_the_scores_is_refused(jobs: Jobs, tiny_job: Document) -> None:
    def wrong_on_confirm(request: ScoreRequest, result: Any) -> Any:
        confirm = request.split == "confirm"
        return replace(result, nll_nats=result.nll_nats + 0.2) if confirm else result

    jobs.submit(tiny_job)
    with pytest.raises(ScoringError, match="the exported model does not reproduce its candidate"):
        jobs.run(LocalCluster(wrong_on_confirm))


def test_a_job_goes_through_its_states_and_tells_of_each_stage(jobs: Jobs, tiny_job: Document) -> None:
    id, cluster = jobs.submit(tiny_job), LocalCluster()

    result = jobs.run(cluster)

    states = [data["state"] for data in jobs.events(id, "job.state")]
    assert states == ["queued", "validating", "preparing", "searching", "finalizing", "succeeded"]
    assert cluster.phases == ["closed_form", "propagated", "export", "verify"]
    assert [actors.closed for actors in cluster.actors] == [True]
    (loaded,) = jobs.events(id, "data.loaded")
    assert loaded == {
        "splits": {"calibration": 8, "search": 16, "confirm": 32, "test": 64},
        "dropped_duplicates": 0,
        "digests": result["data"],
        "notes": [],
    }
    (propagated,) = jobs.events(id, "factors.propagated")
    assert propagated["kept"] == (
        propagated["loss_after"] < propagated["loss_before"] + propagated["standard_error"]
    )
    assert propagated["reason"] is None
    (model,) = jobs.events(id, "model.loaded")
    assert result["model"].items() <= model.items()
    assert (model["matrices"], model["dtype"], model["device"]) == (14, "float32", "cpu")
    assert [data["split"] for data in jobs.events(id, "dense.scored")] == ["search", "confirm", "test"]
    assert [data["generation"] for data in jobs.events(id, "generation.completed")] == [0, 1, 2, 3]
    (verified,) = jobs.events(id, "artifact.verified")
    assert verified["metric"] == pytest.approx(verified["expected"])
    phases = [
        "prepare",
        "dense",
        "reweigh",
        "descend",
        "search",
        "confirm",
        "refit",
        "test",
        "export",
        "verify",
    ]
    assert list(result["seconds"]) == phases


def test_the_experts_of_a_mixture_are_searched_refit_around_and_exported(
    jobs: Jobs, tiny_job: Document, tiny_mixture: str
) -> None:
    tiny_job["model"]["path"] = tiny_mixture
    tiny_job["search"]["constraints"] = [{"matrices": ["*.experts.*"], "tied": "layer"}]
    id, cluster = jobs.submit(tiny_job), LocalCluster()
    result = jobs.run(cluster)
    (model,) = jobs.events(id, "model.loaded")
    assert model["matrices"] == 2 * (4 + 4 * 2)  # attention; each expert's two
    assert result["best"]["kept_block_params"] <= 0.4 + 2 * 4 * 16 / model["block_params"]  # routers stay
    (verified,) = jobs.events(id, "artifact.verified")
    assert verified["metric"] == pytest.approx(verified["expected"])
    stored = load_file(Path(result["artifact"]) / "model.safetensors")
    assert any(".mlp.experts.3." in name for name in stored)


def test_the_test_split_is_scored_once_and_last(jobs: Jobs, tiny_job: Document) -> None:
    jobs.submit(tiny_job)
    cluster = LocalCluster()
    jobs.run(cluster)
    splits = [request.split for request in cluster.actors[0].requests]
    assert splits.count("test") == 1
    assert splits[-1] == "test"


def test_a_front_is_searched_confirmed_and_told_of(jobs: Jobs, tiny_job: Document) -> None:
    tiny_job["objective"] = {"kind": "pareto", "smallest": 0.3, "sizes": 4, "finalists": 3, "points": 100.0}
    tiny_job["policy"]["kl_weight"] = 1.0  # the likelihood of random labels knows no size
    id, cluster = jobs.submit(tiny_job), LocalCluster()
    result = jobs.run(cluster)
    shares = [point["kept_share"] for point in result["front"]]
    assert shares == sorted(set(shares))
    assert [row["kept_share"] for row in jobs.store.front(id)] == shares
    assert [row["loss_nats"] for row in jobs.store.front(id)] == [p["loss_nats"] for p in result["front"]]
    finalists = result["finalists"]
    assert len(finalists) == len(jobs.events(id, "finalist.confirmed")) > 1
    assert result["genome"] == finalists[-1]["genome"]  # the smallest, for all lose little enough
    assert result["promise_held"] is True
    assert [request.split for request in cluster.actors[0].requests].count("test") == 1


def test_a_finalist_that_gains_by_refitting_is_exported_refit(jobs: Jobs, tiny_job: Document) -> None:
    tiny_job["policy"] |= {"method": "weight", "refit": 1.0}
    tiny_job["policy"]["search"] |= {"generations": 0, "kl_weight": 1.0}
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
    max_drop["resources"] = {"actors": actors}
    id, cluster = jobs.submit(max_drop), LocalCluster()
    result = jobs.run(cluster)
    refit, confirmed = cluster.actors[0].others["refit"], len(result["finalists"])
    assert len({request.file for request in refit}) == len(refit) == len(jobs.events(id, "finalist.refit"))
    assert confirmed <= len(refit) <= confirmed + (actors - 1) * confirmed
    if actors == 1:
        assert 1 < len(refit) == confirmed < MOST_FINALISTS
    told = [data for data in jobs.events(id, "phase.progress") if data["phase"] == "refit"]
    done = [data["done"] for data in told]
    assert done == sorted(done)
    (end,) = [data["done"] for data in told if data["done"] == data["total"]]  # once, not after every batch
    assert end == done[-1] == len(refit)
    assert all(request.answer_bias for request in refit)


def test_what_goes_with_propagated_factors_is_scored_confirmed_and_exported(
    jobs: Jobs, max_drop: Document, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The export, loaded back, does what was confirmed, and has a bias of the head."""
    monkeypatch.setattr(Propagation, "kept", True)
    monkeypatch.setattr(
        preparation, "example_losses", lambda model, *_: torch.tensor([float(model.answer_bias is None)])
    )
    max_drop["projection"]["refit"] = None
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
    tiny_job["search"] |= {"kl_weight": 0.0, "generations": 0, "reweigh_rounds": 0, "descent_rounds": 0}
    tiny_job["objective"] = {"kind": "target_params", "share": 0.5}
    tiny_job["policy"]["propagated_shares"] = []
    return tiny_job


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
    assert "the output head given a bias for the answers" in card
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


def test_right_answers_have_no_say_in_a_refit_where_the_loss_is_the_kl(
    jobs: Jobs, tiny_job: Document
) -> None:
    tiny_job["policy"]["kl_weight"] = 1.0
    jobs.submit(tiny_job)
    cluster = LocalCluster()
    jobs.run(cluster)
    assert not any(request.answer_bias for request in cluster.actors[0].others["refit"])


def test_nothing_is_refit_where_the_job_says_so(jobs: Jobs, tiny_job: Document) -> None:
    tiny_job["policy"]["refit"] = None
    id, cluster = jobs.submit(tiny_job), LocalCluster()
    result = jobs.run(cluster)
    assert result["refit"] is False
    assert "refit" not in result["seconds"]
    assert not cluster.actors[0].others["refit"]
    assert not jobs.events(id, "finalist.refit")


def test_the_numbers_add_up_with_tied_embeddings(jobs: Jobs, tiny_job: Document) -> None:
    tiny_job["model"]["exclude"] = ["*.k_proj"]
    jobs.submit(tiny_job)
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


def test_a_file_size_is_met(jobs: Jobs, tiny_job: Document) -> None:
    tiny_job["model"]["dtype"] = "bfloat16"
    tiny_job["objective"] = {"kind": "target_bytes", "share": 0.95}
    jobs.submit(tiny_job)
    result = jobs.run(LocalCluster())
    file_bytes = (Path(result["artifact"]) / "model.safetensors").stat().st_size
    assert result["best"]["file_bytes"] == file_bytes <= result["target_bytes"]
    assert 0 <= 0.95 * result["dense"]["file_bytes"] - result["target_bytes"] < 1_000
    assert result["target_bytes"] - file_bytes < 6_000  # its header is counted as long as it may be
    assert result["promise_held"] is True


@pytest.mark.parametrize("kind", ["target_bytes", "target_latency"])
def test_errors_are_propagated_around_what_bytes_and_time_leave(
    jobs: Jobs, tiny_job: Document, kind: str, make_flop_timer: Any
) -> None:
    tiny_job["objective"] = {"kind": kind, "share": 0.8}
    id, cluster = jobs.submit(tiny_job), LocalCluster(make_timer=make_flop_timer)
    result = jobs.run(cluster)
    (told,) = jobs.events(id, "factors.propagated")
    around = [share / factor for share, factor in zip(told["shares"], PROPAGATED_AROUND, strict=False)]
    assert around == pytest.approx([result["best"]["kept_block_params"]] * len(around), abs=0.1)
    assert around[0] < tiny_job["objective"]["share"] - 0.01  # embeddings take their part of bytes and time
    jobs.export(id, candidate=jobs.store.front(id)[-1]["id"])
    again = LocalCluster(make_timer=make_flop_timer)
    jobs.run(again)
    assert again.phases == ["closed_form", "propagated", "export", "verify"]


@pytest.fixture
def fast(tiny_job: Document) -> Document:
    """A job for a latency, its forward pass that of two rows."""
    tiny_job["objective"] = {"kind": "target_latency", "share": 0.7, "rows": 2, "length": 8}
    return tiny_job


def test_a_latency_is_met_and_measured_again(jobs: Jobs, fast: Document, make_flop_timer: Any) -> None:
    id, cluster = jobs.submit(fast), LocalCluster(make_timer=make_flop_timer)
    result = jobs.run(cluster)
    assert cluster.phases == ["closed_form", "measure_latency", "propagated", "export", "verify"]
    assert list(result["seconds"])[:3] == ["prepare", "latency", "dense"]
    (told,) = jobs.events(id, "latency.measured")
    assert told == result["latency_table"]
    latency = result["latency"]
    assert latency["workload"] == {"kind": "prefill", "rows": 2, "length": 8}
    assert 0.6 < latency["expected_share"] <= latency["target_share"] <= 0.7
    assert latency["measured_share"] == pytest.approx(latency["expected_share"])  # FLOPs are as foretold
    assert latency["measured_dense_ms"] == pytest.approx(latency["expected_dense_ms"])
    assert result["promise_held"] is True
    kept = json.loads((Path(result["artifact"]) / "ranksieve.json").read_text())["summary"]
    assert kept["latency_table"] == told


def test_a_model_that_turns_out_slower_does_not_hold_the_promise(
    jobs: Jobs, fast: Document, make_flop_timer: Any
) -> None:
    class SlowAtLast(make_flop_timer):  # type: ignore[misc]
        def collect(self) -> list[int]:
            taken = super().collect()
            return [max(taken)] * 2 if len(taken) == 2 else taken  # of both models at the end

    jobs.submit(fast)
    result = jobs.run(LocalCluster(make_timer=SlowAtLast))
    assert result["latency"]["measured_share"] == 1
    assert result["promise_held"] is False


def test_a_latency_out_of_reach_fails_the_job_with_the_numbers(
    jobs: Jobs, fast: Document, make_flop_timer: Any
) -> None:
    fast["objective"] |= {"share": None, "milliseconds": 1e-6}
    jobs.submit(fast)
    with pytest.raises(InputError, match=r"at least .* ms and less than the dense model's") as caught:
        jobs.run(LocalCluster(make_timer=make_flop_timer))
    assert caught.value.field == "objective.milliseconds"


def test_a_job_that_is_taken_up_again_keeps_its_table(
    jobs: Jobs, fast: Document, make_flop_timer: Any
) -> None:
    jobs.submit(fast)
    expected = jobs.run(LocalCluster(make_timer=make_flop_timer))
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
    id = jobs.submit(fast)
    with monkeypatch.context() as cut:
        cut.setattr(steps, "propagated", off)
        with pytest.raises(InfrastructureError):
            jobs.run(LocalCluster(make_timer=make_flop_timer))
    assert len(jobs.events(id, "latency.measured")) == 1
    monkeypatch.setattr(steps, "dtype_name", lambda wanted, device: "bfloat16")  # another node
    jobs.run(LocalCluster(make_timer=make_flop_timer))
    assert [event["dtype"] for event in jobs.events(id, "model.loaded")] == ["float32"]


def off(plan: Any) -> Iterator[Any]:
    """A phase under which the machine fails."""
    raise InfrastructureError("the machine was switched off")


def test_another_size_of_a_job_for_a_latency_has_the_levels_of_its_table(
    jobs: Jobs, fast: Document, make_flop_timer: Any
) -> None:
    id = jobs.submit(fast)
    first = jobs.run(LocalCluster(make_timer=make_flop_timer))
    share = min(row["kept_share"] for row in jobs.store.front(id))
    jobs.export(id, share=share)
    cluster = LocalCluster(make_timer=make_flop_timer)
    result = jobs.run(cluster)
    assert cluster.phases == ["closed_form", "propagated", "export", "verify"]
    assert result["latency_table"] == first["latency_table"]
    assert result["latency"]["target_share"] is None
    assert result["latency"]["measured_share"] == pytest.approx(result["latency"]["expected_share"])
    assert result["promise_held"] is None
    (row,) = [row for row in jobs.store.front(id) if row["genome"] == result["genome"]]
    exported = tuple(result["ranks"].values())
    assert all(a == b or b == 0 for a, b in zip(row["ranks"], exported, strict=True))


def test_a_fork_of_a_job_for_a_latency_measures_anew(
    jobs: Jobs, fast: Document, make_flop_timer: Any
) -> None:
    id = jobs.submit(fast)
    jobs.run(LocalCluster(make_timer=make_flop_timer))
    spec = forked(JobSpec.model_validate(fast | {"parent": {"job": id}}), jobs.store)
    assert len(spec.search.seeds) > 0
    jobs.submit(spec.canonical())
    cluster = LocalCluster(make_timer=make_flop_timer)
    result = jobs.run(cluster)
    assert "measure_latency" in cluster.phases
    assert result["latency"]["expected_share"] <= 0.7


def test_a_job_that_would_score_otherwise_than_it_did_does_not_go_on(
    jobs: Jobs, tiny_job: Document, monkeypatch: pytest.MonkeyPatch
) -> None:
    id = jobs.submit(tiny_job)
    switch_off(jobs, lambda request: request.split == "confirm" and jobs.log.search_state() is not None)
    monkeypatch.setattr(closed_form, "FORMAT", -1)  # another version makes other factors
    with pytest.raises(UnresumableError, match=f"job {id} would score differently than before"):
        jobs.run(LocalCluster())


def test_what_was_measured_of_other_factors_is_measured_again(
    jobs: Jobs, tiny_job: Document, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs.submit(tiny_job)
    undisturbed = LocalCluster()
    expected = jobs.run(undisturbed)
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
    assert essence(jobs.run(resumed)) == essence(expected)
    for method in ("requests", "react"):
        asked = [
            cluster.actors[0].requests if method == "requests" else cluster.actors[0].others[method]
            for cluster in (undisturbed, resumed)
        ]
        assert len(asked[0]) == len(asked[1]) > 0


def test_a_job_for_a_latency_does_not_go_on_with_other_factors(
    jobs: Jobs, fast: Document, make_flop_timer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    id = jobs.submit(fast)
    switch_off(jobs, lambda _: jobs.log.search_state() is not None, make_flop_timer)
    monkeypatch.setattr(closed_form, "FORMAT", -1)
    with pytest.raises(UnresumableError, match=f"job {id} would score differently than before"):
        jobs.run(LocalCluster(make_timer=make_flop_timer))


def test_constraints_and_seeds_go_through_a_whole_job(jobs: Jobs, tiny_job: Document) -> None:
    tiny_job["search"] |= {
        "constraints": [
            {"matrices": ["q_proj", "k_proj", "v_proj"], "tied": "layer"},
            {"matrices": ["down_proj"], "tied": "all", "min_density": 0.2},
            {"matrices": ["0.self_attn.o_proj"], "frozen": "dense"},
        ],
        "seeds": [{"densities": {"*": 0.4}}, {"random": 1}],
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


def test_a_search_that_has_begun_needs_the_files_of_its_seeds_no_more(jobs: Jobs, tiny_job: Document) -> None:
    jobs.submit(tiny_job)
    artifact = Path(jobs.run(LocalCluster())["artifact"])
    seed = shutil.copy(artifact / "ranksieve.json", artifact.with_name("seed.json"))
    tiny_job["search"] |= {"seeds": [{"path": str(seed)}]}
    jobs.submit(tiny_job)
    expected = jobs.run(LocalCluster())
    id = jobs.submit(tiny_job)

    switch_off(jobs, lambda _: len(jobs.store.generations(id)) == 1)
    seed.unlink()
    assert jobs.run(LocalCluster())["genome"] == expected["genome"]
    jobs.export(id, share=1)
    assert jobs.run(LocalCluster())["ranks"]


def test_trained_factors_are_searched_exported_and_named_as_such(jobs: Jobs, tiny_job: Document) -> None:
    jobs.submit(tiny_job)
    untrained = jobs.run(LocalCluster())
    tiny_job["policy"] |= {"train_epochs": 8, "train_rate": 3e-3}
    id = jobs.submit(tiny_job)
    result = jobs.run(LocalCluster())
    assert {e["phase"] for e in jobs.events(id, "phase.progress")} >= {"refinement", "search"}
    assert (untrained["refine_epochs"], result["refine_epochs"]) == (0, 8)
    assert result["best"]["kl_nats"]["search"] != untrained["best"]["kl_nats"]["search"]
    card = (Path(result["artifact"]) / "README.md").read_text()
    assert "trained for 8 epochs" in card
    assert "trained for" not in (Path(untrained["artifact"]) / "README.md").read_text()
    (verified,) = jobs.events(id, "artifact.verified")
    assert verified["metric"] == pytest.approx(verified["expected"])


def test_an_interrupted_search_goes_on_from_its_last_generation(jobs: Jobs, tiny_job: Document) -> None:
    jobs.submit(tiny_job)
    undisturbed = LocalCluster()
    expected = jobs.run(undisturbed)

    id = jobs.submit(tiny_job)

    switch_off(jobs, lambda _: len(jobs.store.generations(id)) == 2)
    known = {(tuple(row["genome"]), row["examples"]) for row in jobs.store.memo(id)}
    assert len(jobs.store.generations(id)) == 2

    resumed = LocalCluster()
    result = jobs.run(resumed)

    searched = [r for r in resumed.actors[0].requests if r.split == "search"]
    total = len([r for r in undisturbed.actors[0].requests if r.split == "search"])
    assert len(searched) == total - len(known)  # nothing that was saved is scored again
    assert (result["genome"], result["evaluations"]) == (expected["genome"], expected["evaluations"])
    for model in ("dense", "best"):
        for speed in (result[model], expected[model]):
            del speed["tokens_per_second"]
        assert result[model] == expected[model]
    assert [row["generation"] for row in jobs.store.generations(id)] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "objective",
    [
        {"kind": "target_params", "share": 0.4},
        {"kind": "target_bytes", "size": 22_000},  # the dense model in bfloat16 is smaller
    ],
)
def test_every_worker_of_a_job_takes_the_dtype_that_was_settled_at_first(
    jobs: Jobs, tiny_job: Document, monkeypatch: pytest.MonkeyPatch, objective: Document
) -> None:
    tiny_job["model"]["dtype"] = "auto"
    tiny_job["objective"] = objective
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})  # of nodes that differ
    monkeypatch.setattr(steps, "dtype_name", lambda wanted, device: "float32")
    id = jobs.submit(tiny_job)
    switch_off(jobs, lambda _: True)
    monkeypatch.setattr(steps, "dtype_name", lambda wanted, device: "bfloat16")
    jobs.run(LocalCluster())
    export = jobs.export(id, share=1.0)
    jobs.run(LocalCluster())
    told = [event["dtype"] for event in jobs.events(id, "model.loaded")]
    assert (told, jobs.store.job(export.id).state) == (["float32"] * 2, "succeeded")


@pytest.mark.parametrize("changed", ["records", "weights"])
def test_a_job_does_not_go_on_with_other_records_or_another_model(
    changed: str, jobs: Jobs, tiny_job: Document, tiny_root: Path, tmp_path: Path
) -> None:
    mine = tmp_path / "data" / "mine"
    shutil.copytree(tiny_root, mine)
    tiny_job["model"]["path"] = str(mine / "model")
    tiny_job["task"]["data"]["source"]["path"] = str(mine / "films.jsonl")
    jobs.submit(tiny_job)

    switch_off(jobs, lambda _: True)
    if changed == "records":
        records = (mine / "films.jsonl").read_text().replace("film 1", "film 9")
        (mine / "films.jsonl").write_text(records)
        error, words = "task.data", "is not what it was when job .* ran"
    else:
        file = mine / "model" / "model.safetensors"
        save_file({name: 2 * tensor for name, tensor in load_file(file).items()}, file, {"format": "pt"})
        error, words = "model", "has other weights than when job .* ran"

    with pytest.raises(InputError, match=f"{error}: {words}"):
        jobs.run(LocalCluster())


def test_a_job_does_not_go_on_with_other_matrices(jobs: Jobs, tiny_job: Document, tmp_path: Path) -> None:
    id = jobs.submit(tiny_job)
    switch_off(jobs, lambda _: True)
    of_another_version(tmp_path / "data" / "jobs" / id)
    cluster = LocalCluster()
    with pytest.raises(InputError, match=f"model: has other matrices to prune than when job {id} ran"):
        jobs.run(cluster)
    assert not cluster.phases  # nothing is prepared for it


def essence(result: Document) -> Document:
    """What has to be the same in a run that was disturbed."""
    sides = {
        side: {k: v for k, v in result[side].items() if k != "tokens_per_second"}
        for side in ("dense", "best")
    }
    return sides | {
        name: result[name] for name in ("genome", "evaluations", "generations", "search_ended", "tokens")
    }


def test_a_job_is_given_and_taken_actors_as_it_runs_with_the_same_result(
    jobs: Jobs, tiny_job: Document
) -> None:
    jobs.submit(tiny_job)
    expected = jobs.run(LocalCluster())
    id, wanted = jobs.submit(tiny_job), []

    def change(request: ScoreRequest, result: Any) -> Any:
        if request.split != "search" or len(wanted) < 3:
            actors = 1 + len(wanted) % 5
            jobs.log.update(jobs.store.user_requests.change(id, JobChanges(actors=actors)))
            wanted.append((actors, cluster.shares[0].claim.wants))
        return result

    cluster = LocalCluster(change)
    assert essence(jobs.run(cluster)) == essence(expected)
    assert len(wanted) > 5
    assert all(asked == wants for asked, wants in wanted)
    states = [data["state"] for data in jobs.events(id, "job.state")]
    assert states == ["queued", "validating", "preparing", "searching", "finalizing", "succeeded"]  # one run


def test_a_paused_job_goes_on_to_the_same_result(jobs: Jobs, tiny_job: Document) -> None:
    jobs.submit(tiny_job)
    undisturbed = LocalCluster()
    expected = jobs.run(undisturbed)
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

    assert essence(result) == essence(expected)
    scored = [
        [r for r in cluster.actors[0].requests if r.split == "search" and r.refit is None]
        for cluster in (undisturbed, paused, resumed)
    ]
    assert len(scored[1]) > 0
    twice = scored[1] + scored[2]
    for request in scored[0]:
        twice.remove(request)
    assert 0 < len(twice) <= 2  # scored since the last saved generation
    reacted = [len(cluster.actors[0].others["react"]) for cluster in (undisturbed, paused, resumed)]
    rounds = REWEIGH_PASSES + 1  # the first of descent promises little
    assert reacted == [rounds, rounds, 0]  # no round is repeated; all see the one part


def test_a_stopped_job_exports_what_one_with_so_many_generations_does(jobs: Jobs, tiny_job: Document) -> None:
    id = jobs.submit(tiny_job)

    def stop_after_generation_1(request: ScoreRequest, result: Any) -> Any:
        if len(jobs.store.generations(id)) == 2 and request.split == "search":
            jobs.ask(id, Request.STOP)
        return result

    result = jobs.run(LocalCluster(stop_after_generation_1))
    states = [data["state"] for data in jobs.events(id, "job.state")]
    assert states == ["queued", "validating", "preparing", "searching", "stopping", "finalizing", "succeeded"]
    assert (result["search_ended"], result["generations"]) == ("stopped", 1)

    tiny_job["policy"]["search"]["generations"] = 1
    jobs.submit(tiny_job)
    shorter = jobs.run(LocalCluster())
    assert shorter["search_ended"] == "by itself"
    assert essence({**shorter, "search_ended": "stopped"}) == essence(result)


def test_a_job_killed_after_its_search_only_repeats_the_rest(jobs: Jobs, tiny_job: Document) -> None:
    id = jobs.submit(tiny_job)

    switch_off(jobs, lambda request: request.split == "test")
    resumed = LocalCluster()
    assert jobs.run(resumed)["best"]["kept_block_params"] <= 0.4
    searched = [request for request in resumed.actors[0].requests if request.split == "search"]
    assert [request.refit is None for request in searched] == [True, False] * len(
        resumed.actors[0].others["refit"]
    )
    assert all(request.examples == 16 for request in searched)
    assert {request.split for request in resumed.actors[0].requests} == {"search", "confirm", "test"}
    states = [data["state"] for data in jobs.events(id, "job.state")]
    assert states[-6:] == ["finalizing", "validating", "preparing", "searching", "finalizing", "succeeded"]


def test_a_promise_that_does_not_hold_on_fresh_examples_is_reported(jobs: Jobs, max_drop: Document) -> None:
    def better_dense(request: ScoreRequest, result: Any) -> Any:
        dense = set(request.ranks) == {DENSE}
        return replace(result, quality=np.ones(32)) if dense and request.split == "confirm" else result

    max_drop["objective"]["points"] = 2.0
    id = jobs.submit(max_drop)
    result = jobs.run(LocalCluster(better_dense))
    finalists = result["finalists"]
    assert result["promise_held"] is False
    (loaded,) = jobs.events(id, "data.loaded")
    assert result["notes"] == loaded["notes"]
    (note,) = loaded["notes"]
    assert note.startswith("32 records to confirm are too few to promise 2 points")
    assert not any(finalist["passed"] for finalist in finalists)
    assert result["best"]["kept_block_params"] == pytest.approx(finalists[0]["kept_share"])


def test_finalists_that_were_tested_are_told_from_the_largest_down(jobs: Jobs, max_drop: Document) -> None:
    def small_ones_fail(request: ScoreRequest, result: Any) -> Any:
        small = request.split == "confirm" and -1 not in request.ranks and sum(request.ranks) < 30
        return replace(result, quality=0.0 * result.quality) if small else result

    id = jobs.submit(max_drop)
    result = jobs.run(LocalCluster(small_ones_fail))
    shares = [finalist["kept_share"] for finalist in result["finalists"]]
    assert shares == sorted(shares, reverse=True)
    assert set(shares) == {one["kept_share"] for one in jobs.events(id, "finalist.confirmed")}
    assert len(shares) > 1


def test_an_export_of_a_finalist_that_half_of_the_records_let_through_is_held_to_these(
    jobs: Jobs, max_drop: Document, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ranksieve.service.pipeline.scoring.CHUNK", 8)
    max_drop["objective"]["points"] = 100.0
    max_drop["projection"]["refit"] = None

    def small_ones_fail(request: ScoreRequest, result: Any) -> Any:
        small = request.split == "confirm" and -1 not in request.ranks and sum(request.ranks) < 30
        return Failure(reason="not finite") if small else result

    id = jobs.submit(max_drop)
    result = jobs.run(LocalCluster(small_ones_fail))
    *before, winner = result["finalists"]
    assert {one["examples"] for one in before} == {16}
    assert winner["examples"] == 32
    assert all(one["passed"] for one in result["finalists"])

    rows = {tuple(row["genome"]): row["id"] for row in jobs.store.candidates(id)}
    half = next(one for one in before if tuple(one["genome"]) in rows)
    jobs.export(id, candidate=rows[tuple(half["genome"])])
    cluster = LocalCluster()
    exported = jobs.run(cluster)
    assert exported["export"]["measured_on"] == ["search", "confirm"]
    assert exported["best"]["metric"]["confirm"] == half["metric"]
    assert exported["dense"]["metric"].keys() == {"search"}  # that of the confirm split is of all its records
    (verified,) = jobs.events(id, "artifact.verified")
    assert verified["expected"] == result["best"]["metric"]["confirm"]


def test_a_candidate_that_fails_is_an_event_and_never_wins(jobs: Jobs, tiny_job: Document) -> None:
    refused: list[tuple[int, ...]] = []

    def fail_the_first(request: ScoreRequest, result: Any) -> Any:
        if not refused and request.split == "search" and request.stop == 8:
            refused.append(request.ranks)
        return Failure(reason="not finite") if request.ranks in refused else result

    id = jobs.submit(tiny_job)
    result = jobs.run(LocalCluster(fail_the_first))
    failed = jobs.events(id, "candidate.failed")
    assert {"reason": "not finite", "generation": 0} in failed
    assert tuple(result["ranks"].values()) not in refused


def test_a_job_whose_model_is_fetched_is_cancelled_meanwhile(
    jobs: Jobs, tiny_job: Document, monkeypatch: pytest.MonkeyPatch
) -> None:
    id = jobs.submit({**tiny_job, "model": {"hub": "some/model"}})
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")

        def cancel_when_asked() -> None:
            connection, _ = silent.accept()
            with connection:
                jobs.ask(id, Request.CANCEL)
                connection.recv(1 << 16, socket.MSG_WAITALL)  # until whoever asked has gone

        hub = threading.Thread(target=cancel_when_asked)
        hub.start()
        with pytest.raises(CancelledError):
            jobs.run(LocalCluster())
        hub.join()


def test_a_cancelled_job_stops_between_batches(jobs: Jobs, tiny_job: Document) -> None:
    jobs.submit(tiny_job)
    job = jobs.store.claims.claim_next()
    assert job is not None
    log = JobLog(jobs.store, job, jobs._settings.jobs_dir / job.id)
    log.cancelled.set()
    pipeline = Pipeline(jobs._settings, LocalCluster())  # type: ignore[arg-type]
    with pytest.raises(CancelledError):
        pipeline(job, log)


def test_a_small_cache_keeps_what_the_job_uses_and_nothing_else(
    tiny_root: Path, tmp_path: Path, jobs: Jobs, tiny_job: Document
) -> None:
    settings = Settings(data_dir=tmp_path / "data", roots=[tiny_root], cache_limit_gib=1e-9)
    jobs = Jobs(jobs.store, settings)
    cache = FolderCache(settings.cache_dir)

    def kinds(keys: set[str]) -> list[str]:
        return sorted(key.split("-")[0] for key in keys)

    def run(method: str) -> set[str]:
        tiny_job["policy"] = {**tiny_job.get("projection", {}), "method": method}
        jobs.submit(tiny_job)
        jobs.run(LocalCluster())
        return {entry.key for entry in cache.entries()}

    first, second = run("task"), run("output")
    assert kinds(first) == ["midway", "model", "propagated", "way"]
    assert kinds(second) == ["factors", "model"]
    assert kinds(first & second) == ["model"]


def finished(jobs: Jobs, tiny_job: Document) -> str:
    """A job that has succeeded, with candidates of many sizes."""
    tiny_job["objective"] = {"kind": "pareto", "smallest": 0.3, "sizes": 4, "finalists": 2, "points": 100.0}
    tiny_job["search"] |= {"kl_weight": 1.0, "generations": 1}
    id = jobs.submit(tiny_job)
    jobs.run(LocalCluster())
    return id


def winner_of(jobs: Jobs, id: str) -> tuple[Document, int]:
    """The result of a job, and the id of the candidate that it exported."""
    result = jobs.store.job(id).result
    assert result is not None
    row = next(row for row in jobs.store.front(id) if row["genome"] == result["genome"])
    return result, row["id"]


def weights(result: Document) -> bytes:
    return (Path(result["artifact"]) / "model.safetensors").read_bytes()


def test_any_size_of_a_finished_job_is_exported_without_a_search(jobs: Jobs, tiny_job: Document) -> None:
    tiny_job["policy"]["refit"] = None
    tiny_job["policy"]["descent_rounds"] = 0  # what it leads to may be all that the front has
    id = finished(jobs, tiny_job)
    confirmed = [one["genome"] for one in jobs.store.job(id).result["finalists"]]
    row = next(row for row in jobs.store.front(id) if row["genome"] not in confirmed)
    asked = jobs.export(id, share=row["kept_share"])
    assert jobs.export(id, candidate=row["id"]).id == asked.id  # the same one

    cluster = LocalCluster()
    result = jobs.run(cluster)

    assert cluster.phases == ["closed_form", "export", "verify"]
    assert not cluster.actors
    states = [data["state"] for data in jobs.events(asked.id, "job.state")]
    assert states == ["queued", "validating", "preparing", "finalizing", "succeeded"]
    assert result["genome"] == row["genome"]
    assert result["export"]["measured_on"] == ["search"]
    assert set(result["best"]["metric"]) == set(result["dense"]["metric"]) == {"search"}
    (verified,) = jobs.events(asked.id, "artifact.verified")
    assert verified["metric"] == pytest.approx(verified["expected"])
    assert verified["expected"] == row["metric"]
    card = (Path(result["artifact"]) / "README.md").read_text(encoding="utf-8")
    assert "not confirmed on fresh examples, and the test split was not touched" in card
    assert f"Drop on the first 16 examples of the search split: {row['drop_points']:.2f} points" in card
    assert "| accuracy, search split |" in card
    assert "test split |" not in card
    with pytest.raises(ConflictError, match=f"an export itself; ask job {id}"):
        jobs.export(asked.id, share=0.5)


def test_an_export_of_a_finalist_is_the_model_that_was_confirmed(
    jobs: Jobs, tiny_job: Document, tmp_path: Path
) -> None:
    tiny_job["policy"] |= {"method": "weight", "refit": 1.0}
    id = finished(jobs, tiny_job)
    job_result, winner = winner_of(jobs, id)
    assert job_result["refit"] is True
    first = jobs.export(id, candidate=winner)
    result = jobs.run(LocalCluster())
    assert weights(result) == weights(job_result)
    assert result["export"]["measured_on"] == ["confirm"]
    assert result["best"]["metric"] == {"confirm": job_result["best"]["metric"]["confirm"]}
    assert result["best"]["drop_points"] == {"confirm": job_result["best"]["drop_points"]["confirm"]}
    card = (Path(result["artifact"]) / "README.md").read_text(encoding="utf-8")
    assert "Drop on the confirm split" in card
    assert "named above: the test split was not touched" in card

    # without what was fitted to it, it is what the search knew, and its card says so
    jobs.store.submissions.delete_job(first.id)
    jobs.export(id, candidate=winner)
    shutil.rmtree(tmp_path / "data" / "jobs" / id / "refit")
    assert jobs.run(LocalCluster())["export"]["measured_on"] == ["search"]


def test_evicted_factors_are_made_again(jobs: Jobs, tiny_job: Document, tmp_path: Path) -> None:
    id = finished(jobs, tiny_job)
    first = jobs.export(id, share=0.5)
    before = jobs.run(LocalCluster())
    FolderCache(tmp_path / "data" / "cache").shrink(0)
    jobs.store.submissions.delete_job(first.id)
    jobs.export(id, share=0.5)
    assert weights(jobs.run(LocalCluster())) == weights(before)


def test_an_export_of_something_else_is_refused(jobs: Jobs, tiny_job: Document) -> None:
    tiny_job["policy"]["refit"] = None
    job = jobs.store.job(finished(jobs, tiny_job))
    smallest, *_, largest = jobs.store.front(job.id)
    wrong = [
        (
            largest,
            ("known", "data", "search"),
            InputError,
            r"task.data: is not what it was .*\(search differ",
        ),
        (smallest, ("known", "model", "digest"), InputError, "model: has other weights"),
        (
            largest | {"genome": [0] * 14},
            ("candidate", "metric"),
            ScoringError,
            "differs from the measurement of its candidate",
        ),
    ]
    for row, (*path, name), error, words in wrong:
        values: Document = export_of(job, row, {"candidate": row["id"]}).to_json()
        inner = values
        for part in path:
            inner = inner[part]
        inner[name] = inner[name] + 0.5 if name == "metric" else "another"
        jobs.store.submissions.create_export(job, Export.from_json(values))
        with pytest.raises(error, match=words):
            jobs.run(LocalCluster())
        claimed = jobs.store.exports(job.id)[0]
        jobs.store.runs.transition(claimed.id, JobState.FAILED, epoch=claimed.epoch)


def of_another_version(directory: Path) -> None:
    """Leaves in a job's folder what a version wrote that pruned one matrix fewer."""
    matrices.keep(directory, matrices.kept(directory)[:-1])


def test_an_export_for_which_the_model_is_taken_apart_otherwise_is_refused(
    jobs: Jobs, tiny_job: Document, tmp_path: Path
) -> None:
    id = finished(jobs, tiny_job)
    jobs.export(id, share=0.5)
    of_another_version(tmp_path / "data" / "jobs" / id)
    cluster = LocalCluster()
    words = (
        rf"model: has other matrices to prune than when job {id} ran: expected 13, got 14 \(1 new, like "
        r"model\.layers\.1\.mlp\.down_proj\)\. .*; submit the job anew, not as a fork"
    )
    with pytest.raises(InputError, match=words):
        jobs.run(cluster)
    assert not cluster.phases


def test_what_cannot_be_exported(jobs: Jobs, tiny_job: Document) -> None:
    waiting = jobs.submit(tiny_job)
    with pytest.raises(ConflictError, match="only a job that succeeded"):
        jobs.export(waiting, share=0.5)
    jobs.store.user_requests.ask(waiting, Request.CANCEL)
    id = finished(jobs, tiny_job)
    smallest = jobs.store.front(id)[0]["kept_share"]
    with pytest.raises(InputError, match=f"share: must be at least {smallest:.4f}"):
        jobs.export(id, share=0.01)
    with pytest.raises(NotFoundError, match="has no candidate 999999"):
        jobs.export(id, candidate=999_999)


def test_where_answers_are_written_screening_goes_by_the_loss_alone(jobs: Jobs, tiny_job: Document) -> None:
    tiny_job["task"] |= {"kind": "generate", "choices": None, "max_new_tokens": 4}
    tiny_job["objective"] = {"kind": "target_params", "share": 0.5}
    id = finished(jobs, tiny_job)
    candidates = jobs.store.candidates(id)
    screened = [one for one in candidates if one["metric"] is None]
    assert {one["examples"] for one in screened} == {8}
    assert {one["examples"] for one in candidates if one["metric"] is not None} == {16}
    assert all(one["loss_nats"] is not None and one["drop_points"] is None for one in screened)
    with pytest.raises(InputError, match="candidate: was screened by its loss on 8 examples"):
        jobs.export(id, candidate=screened[0]["id"])


@pytest.fixture
def two_processors(tiny_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Application]:
    """The whole service, which runs two jobs at once on a real Ray with two processors."""
    monkeypatch.setenv("RAY_OVERRIDE_RESOURCES", '{"CPU": 2}')
    application = build(Settings(data_dir=tmp_path / "shared", roots=[tiny_root], running_jobs=2))
    application.start()
    yield application
    application.stop()


def test_two_jobs_at_once_on_a_real_ray_find_what_each_finds_alone(
    jobs: Jobs, two_processors: Application, tiny_job: Document
) -> None:
    tiny_job["resources"] = {"actors": 2}
    tiny_job["policy"]["refit"] = None
    tiny_job["policy"]["search"] |= {"generations": 8, "max_evaluations": 100}
    specs = [{**tiny_job, "search": {**tiny_job["search"], "seed": seed}} for seed in (0, 1)]
    expected = []
    for spec in specs:
        jobs.submit(spec)
        expected.append(jobs.run(LocalCluster()))
    store, news = two_processors.store, threading.Condition()

    def told(_id: str) -> None:
        with news:
            news.notify_all()

    def wait(condition: Callable[[], bool]) -> None:
        with news:
            reached = news.wait_for(condition, MOST_S)
        assert reached, [(event.type, event.data) for id in ids for event in store.events(id, limit=1000)]

    store.base.listener = told
    ids = [two_processors.submit(JobSpec.model_validate(specs[0])).id]
    wait(lambda: store.job(ids[0]).state is JobState.SEARCHING)  # with both processors
    ids.append(two_processors.submit(JobSpec.model_validate(specs[1])).id)
    wait(lambda: store.job(ids[1]).state is JobState.SEARCHING)
    for actors in (1, 2):
        two_processors.controller.change(ids[0], JobChanges(actors=actors))
    wait(lambda: all(store.job(id).state.terminal for id in ids))

    times = []
    for id, alone in zip(ids, expected, strict=True):
        result, events = store.job(id).result, store.events(id, limit=1000)
        assert result is not None
        assert essence(result) == essence(alone)
        moves = {event.data["state"]: event.at for event in events if event.type == "job.state"}
        assert list(moves) == ["queued", "validating", "preparing", "searching", "finalizing", "succeeded"]
        assert "actor.replaced" not in {event.type for event in events}
        times.append(moves)
    assert times[1]["searching"] < times[0]["succeeded"]
