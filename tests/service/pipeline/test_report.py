"""The checks at the end of a job; the numbers themselves are checked on a whole job in `test_pipeline`."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tuning import tune

from ranksieve.search.errors import ScoringError
from ranksieve.search.space.latency import Curve, LatencyTable
from ranksieve.search.space.matrix import MatrixShape
from ranksieve.service.pipeline import latency, report
from ranksieve.service.pipeline.reproduction import require_reproduced
from ranksieve.service.server.capabilities import LIBRARIES
from ranksieve.service.spec import JobSpec
from ranksieve.service.store import Store
from ranksieve.workers.cost.latency import Latency
from ranksieve.workers.cost.workload import Workload
from ranksieve.workers.export.verification import Spent
from ranksieve.workers.export.writer import Exported
from ranksieve.workers.types.scores import Scores

SUMMARY: dict[str, Any] = {
    "metric_name": "accuracy",
    "objective": {"kind": "max_drop", "points": 1.0},
    "promise_held": True,
    "target_bytes": None,
    "latency": None,
    "ranks": {"up": 4, "down": 0},
    "dense": {"total_params": 100, "metric": {"test": 0.9}},
    "best": {"total_params": 60, "metric": {"test": 0.8}},
}


def finished(
    tmp_path: Path, total_params: int, dead: dict[str, int] | None = None, **summary: Any
) -> dict[str, Any]:
    (tmp_path / "a.safetensors").write_bytes(b"12345")
    (tmp_path / "tokenizer.json").write_bytes(b"not a weight")
    given = SimpleNamespace(folder=tmp_path)
    prepared: Any = SimpleNamespace(given=given, dense_block_params=80, matrices=())
    verified: Any = SimpleNamespace(dense_tokens_per_second=10.0, tokens_per_second=25.0, spent=None)
    exported = Exported(
        folder=tmp_path / "model",
        file_bytes=3,
        total_params=total_params,
        block_params=total_params - 20,
        dead=dead or {},
    )
    return report.result({**SUMMARY, **summary}, prepared, exported, verified, {"search": 1.5})


def test_the_result_joins_what_was_measured(tmp_path: Path) -> None:
    result = finished(tmp_path, total_params=60)
    assert result["dense"] == {**SUMMARY["dense"], "file_bytes": 5, "tokens_per_second": 10.0}
    sizes = {"block_params": 40, "kept_block_params": 0.5, "total_params": 60, "file_bytes": 3}
    assert result["best"] == {**SUMMARY["best"], **sizes, "left_out_params": 0, "tokens_per_second": 25.0}
    assert result["ranks"] == SUMMARY["ranks"]
    assert (result["artifact"], result["seconds"]) == (str(tmp_path / "model"), {"search": 1.5})
    assert "file_bytes" not in SUMMARY["best"]
    assert result["latency"] is None


@pytest.mark.parametrize(
    ("measured_ms", "share", "milliseconds", "held"),
    [
        (9.0, 0.5, None, True),
        (3.0, 0.6, None, False),
        (3.0, 0.6, 3.0, True),  # beside a dense model that was faster at the end than when the table was made
        (9.0, 0.5, 3.0, False),  # all is slower
        (3.1, 0.5, 3.0, True),
    ],
)
def test_a_promised_time_is_a_share_of_the_dense_models_or_milliseconds(
    measured_ms: float, share: float, milliseconds: float | None, held: bool
) -> None:
    measured = {"target_share": 0.5, "measured_share": share, "measured_ms": measured_ms}
    assert latency.held(measured, milliseconds) is held
    assert latency.held({**measured, "target_share": None}, milliseconds)
    assert latency.held(None, milliseconds)


@pytest.mark.parametrize(("target_bytes", "held"), [(3, True), (2, False), (None, True)])
def test_a_promised_file_size_is_held_by_the_files_themselves(
    tmp_path: Path, target_bytes: int | None, held: bool
) -> None:
    assert finished(tmp_path, total_params=60, target_bytes=target_bytes)["promise_held"] is held


def test_dead_matrices_do_not_count(tmp_path: Path) -> None:
    result = finished(tmp_path, total_params=52, dead={"up": 8})
    assert result["ranks"] == {"up": 0, "down": 0}
    assert (result["best"]["block_params"], result["best"]["kept_block_params"]) == (32, 0.4)
    assert (result["best"]["total_params"], result["best"]["left_out_params"]) == (52, 8)


def test_an_export_of_another_size_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ScoringError, match="has 61 parameters, expected 60"):
        finished(tmp_path, total_params=61)


def scores(*nll_nats: float, answer_tokens: float = 1.0) -> Scores:
    nothing = np.zeros(len(nll_nats))
    return Scores(
        quality=nothing,
        exact=nothing,
        nll_nats=np.array(nll_nats),
        kl_nats=nothing,
        answer_tokens=np.full(len(nll_nats), answer_tokens),
        tokens=0,
        seconds=0.0,
    )


@pytest.mark.parametrize(
    ("exported", "answer_tokens"),
    [
        ((0.5, 2.0), 1.0),
        ((0.55, 1.94), 1.0),
        ((0.9, 1.6), 5.0),  # 0.08 for each of five tokens
    ],
)
def test_rounding_is_no_broken_export(exported: tuple[float, ...], answer_tokens: float) -> None:
    expected = scores(0.5, 2.0, answer_tokens=answer_tokens)
    require_reproduced(expected, scores(*exported, answer_tokens=answer_tokens))


@pytest.mark.parametrize("exported", [(0.8, 2.0), (0.2, 2.3), (math.nan, 2.0)])
def test_the_export_must_do_what_was_confirmed_on_every_example(exported: tuple[float, ...]) -> None:
    # the second one is as good as the candidate on average, but not the same model
    with pytest.raises(ScoringError, match=r"nats per token on average, at most 0\.1 expected"):
        require_reproduced(scores(0.5, 2.0), scores(*exported))


CHECKED: Any = SimpleNamespace(licence={"license": "mit"})


def test_provenance_names_what_is_public_of_the_job_and_a_digest_of_the_rest(
    store: Store, tiny_job: dict[str, Any]
) -> None:
    tiny_job["task"]["data"]["files"] = {"test": {"hub": {"id": "some/reviews"}}}
    job = store.submissions.create_job(JobSpec.model_validate(tune(tiny_job)))
    provenance = report.provenance(job, CHECKED, SUMMARY)
    assert (provenance["job_id"], provenance["job_sha256"]) == (job.id, job.spec.digest())
    assert provenance["model"] == {
        "hub": None,
        "revision": None,
        "adapter": False,
        "licence": {"license": "mit"},
    }
    assert provenance["datasets"] == ["some/reviews"]
    assert provenance["seed"] == 0
    assert "films.jsonl" not in str(provenance)
    assert set(provenance["versions"]) == {"python", *LIBRARIES}
    assert provenance["summary"] is SUMMARY


@pytest.mark.parametrize("wanted", [{"target_bytes": 1000}, {"latency": {"target_share": 0.5}}])
def test_a_model_does_not_say_of_itself_what_is_not_known_yet(
    store: Store, tiny_job: dict[str, Any], wanted: dict[str, Any]
) -> None:
    job = store.submissions.create_job(JobSpec.model_validate(tune(tiny_job)))
    reported = report.provenance(job, CHECKED, {**SUMMARY, **wanted})["summary"]
    assert reported == {**SUMMARY, **wanted, "promise_held": None}


@pytest.mark.parametrize(
    ("share", "milliseconds", "held"),
    [(0.52, None, True), (0.53, None, False), (0.523, 3.0, True), (0.53, 3.0, False)],
)
def test_a_promised_time_is_held_within_five_percent_and_no_more(
    share: float, milliseconds: float | None, held: bool
) -> None:
    measured = {"target_share": 0.5, "measured_share": share, "measured_ms": 6 * share}
    assert latency.held(measured, milliseconds) is held


def test_what_is_expected_of_an_export_is_what_its_own_ranks_take() -> None:
    """A matrix that never did anything is left out of it."""
    matrices = [
        MatrixShape(name=f"{i}.m", out_features=16, in_features=16, layer=i, kind="m") for i in range(2)
    ]
    curve = Curve(
        ranks=(0, 4), nanoseconds=(0, 40), dense_nanoseconds=100, matrices=tuple(m.name for m in matrices)
    )
    measured = Latency(
        table=LatencyTable(curves=(curve,), other_nanoseconds=200), device="cpu", dtype="float32", threads=1,
        workload=Workload(kind="prefill", rows=1, length=2), stretched=1.0, stretched_ranks=1.0,
        checked_nanoseconds=1, expected_nanoseconds=1,
    )  # fmt: skip
    summary = latency.predicted(measured, matrices, [4, 4], 300)
    assert summary["latency"]["expected_share"] == 280 / 400

    reported = latency.compared(summary, matrices, [4, 0], Spent(dense_nanoseconds=400, nanoseconds=250))

    assert reported is not None
    assert reported["expected_share"] == 240 / 400
    assert (reported["target_share"], reported["measured_share"]) == (300 / 400, 250 / 400)
