"""What tells scorings apart: jobs take over one another's outcomes where nothing of this differs."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ranksieve.search.space.latency import LatencyTable
from ranksieve.service.pipeline.fingerprints import scored_as
from ranksieve.service.spec import JobSpec
from ranksieve.workers.cost.latency import Latency
from ranksieve.workers.cost.workload import Workload
from ranksieve.workers.types.plan import EncodedTask

Document = dict[str, Any]
DEFAULT_TASK = {"digest": "task", "split_digests": {"search": "s"}}


def digest(
    document: Document, factors: str = "factors-1", latency: Latency | None = None, **task: Any
) -> str:
    encoded = EncodedTask(kind="choice", splits={}, max_new_tokens=0, **{**DEFAULT_TASK, **task})
    prepared: Any = SimpleNamespace(factors=Path("cache") / factors)
    return scored_as(JobSpec.model_validate(document), prepared, encoded, latency)


@pytest.fixture
def document(make_spec: Callable[..., JobSpec]) -> Document:
    return make_spec().canonical()


def changed(document: Document, field: str, value: Any) -> Document:
    *parts, last = field.split(".")
    inner = document
    for part in parts:
        inner = inner[part]
    inner[last] = value
    return document


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("projection.rank_step", 3),
        ("objective", {"kind": "target_bytes", "share": 0.5}),
        (
            "objective",
            {"kind": "max_drop", "points": 2, "confidence": 0.9},
        ),  # bounds of drops are at another one
        ("search.constraints", [{"matrices": ["*"], "max_density": 0.9}]),
        ("search.screen", 16),
        ("search.kl_weight", 0.25),
        ("task.data.sizes.search", 128),
        ("resources.batch_tokens", 1234),
        ("resources.threads_per_actor", 2),
        ("resources.gpus_per_actor", 1),
    ],
)
def test_what_a_scoring_depends_on_tells_jobs_apart(document: Document, field: str, value: Any) -> None:
    before = digest(document)
    assert digest(changed(document, field, value)) != before


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", "another"),
        ("labels", {"team": "blue"}),
        ("priority", 5),
        ("resources.actors", 7),
        ("search.seed", 9),
        ("search.population", 31),
        ("objective", {"kind": "max_drop", "points": 9}),
        ("objective", {"kind": "target_params", "share": 0.3}),
    ],
)
def test_what_it_does_not_depend_on_does_not(document: Document, field: str, value: Any) -> None:
    before = digest(document)
    assert digest(changed(document, field, value)) == before


def latency(expected: int) -> Latency:
    workload = Workload(kind="prefill", rows=4, length=30)
    table = LatencyTable(curves=(), other_nanoseconds=1)
    return Latency(
        table=table, device="cpu", dtype="float32", threads=1, workload=workload, stretched=1.0, stretched_ranks=1.0,
        checked_nanoseconds=1, expected_nanoseconds=expected,
    )  # fmt: skip


def test_other_factors_records_and_prices_tell_jobs_apart(document: Document) -> None:
    found = [
        digest(document),
        digest(document, factors="factors-2"),
        digest(document, digest="other"),
        digest(document, split_digests={"search": "t"}),
        digest(document, latency=latency(1)),
        digest(document, latency=latency(2)),
    ]
    assert len(set(found)) == len(found)


def test_where_factors_are_led_by_a_search_its_objective_tells_jobs_apart(document: Document) -> None:
    document["projection"] |= {"propagated_shares": [0.3], "propagation_rounds": 2}
    before = digest(document)
    assert digest(changed(document, "objective.points", 9)) != before
