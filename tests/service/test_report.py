"""The checks at the end of a job; the numbers themselves are checked on a whole job in `test_pipeline`."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from search.errors import ScoringError
from service import report
from service.spec import JobSpec
from service.store import Store
from workers.export import Exported

SUMMARY: dict[str, Any] = {
    "metric_name": "accuracy",
    "dense": {"total_params": 100, "metric": {"test": 0.9}},
    "best": {"total_params": 60, "metric": {"test": 0.8}},
}


def finished(tmp_path: Path, total_params: int) -> dict[str, Any]:
    (tmp_path / "a.safetensors").write_bytes(b"12345")
    (tmp_path / "tokenizer.json").write_bytes(b"not a weight")
    prepared: Any = SimpleNamespace(model=SimpleNamespace(folder=tmp_path))
    verified: Any = SimpleNamespace(dense_tokens_per_second=10.0, tokens_per_second=25.0)
    exported = Exported(folder=tmp_path / "model", file_bytes=3, total_params=total_params, block_params=1)
    return report.result(SUMMARY, prepared, exported, verified, {"search": 1.5})


def test_the_result_joins_what_was_measured(tmp_path: Path) -> None:
    result = finished(tmp_path, total_params=60)
    assert result["dense"] == {**SUMMARY["dense"], "file_bytes": 5, "tokens_per_second": 10.0}
    assert result["best"] == {**SUMMARY["best"], "file_bytes": 3, "tokens_per_second": 25.0}
    assert (result["artifact"], result["seconds"]) == (str(tmp_path / "model"), {"search": 1.5})
    assert "file_bytes" not in SUMMARY["best"]


def test_an_export_of_another_size_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ScoringError, match="has 61 parameters, expected 60"):
        finished(tmp_path, total_params=61)


@pytest.mark.parametrize(
    ("kind", "expected", "metric", "reproduced"),
    [
        ("choice", 0.8, 0.8, True),
        ("choice", 0.8, 0.796, True),
        ("choice", 0.8, 0.79, False),
        ("generate", 0.8, 0.81, False),
        ("lm", 10.0, 10.04, True),
        ("lm", 10.0, 9.9, False),
    ],
)
def test_the_export_must_do_what_was_confirmed(
    kind: Any, expected: float, metric: float, reproduced: bool
) -> None:
    if reproduced:
        report.require_reproduced(kind, expected, metric)
        return
    with pytest.raises(ScoringError, match=r"points apart, at most 0\.5 expected"):
        report.require_reproduced(kind, expected, metric)


def test_provenance_names_spec_versions_and_numbers(store: Store, tiny_job: dict[str, Any]) -> None:
    job = store.create_job(JobSpec.model_validate(tiny_job))
    provenance = report.provenance(job, SUMMARY)
    assert provenance["job_id"] == job.id
    assert provenance["spec"]["search"]["seed"] == 0  # defaults are written out
    assert set(provenance["versions"]) == {"python", *report.LIBRARIES}
    assert provenance["summary"] is SUMMARY
