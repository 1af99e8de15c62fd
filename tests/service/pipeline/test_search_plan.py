"""From a job file to space, objective and seeds; what is refused there is in `test_preflight`."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from transformers import LlamaConfig
from tuning import tune

from ranksieve.api.cli.spec_file import load_spec
from ranksieve.search.errors import InputError
from ranksieve.search.space.latency import Curve, LatencyTable
from ranksieve.search.space.matrix import DENSE, MatrixShape
from ranksieve.search.space.objectives import MaxDrop, Pareto, TargetBytes, TargetLatency, TargetParams
from ranksieve.service.pipeline.plans import Roots
from ranksieve.service.pipeline.search_plan import (
    SearchPlan,
    check_search_plan,
    require_scorings,
    search_plan,
)
from ranksieve.service.spec import JobSpec
from ranksieve.workers.cost.latency import Latency
from ranksieve.workers.cost.workload import Workload
from ranksieve.workers.model.filesize import Remainder, remainder
from ranksieve.workers.model.matrices import find_matrices
from ranksieve.workers.model.sources import empty_model

Document = dict[str, Any]

MATRICES = tuple(
    MatrixShape(name=f"model.layers.{layer}.{kind}", out_features=o, in_features=16, layer=layer, kind=kind)
    for layer in range(3)
    for kind, o in (("q_proj", 16), ("k_proj", 8), ("up_proj", 32))
)
DENSE_NUMBERS = 3 * 16 * (16 + 8 + 32)
REST = Remainder(numbers=1000, other_bytes=40, header_bytes=60)


def test_a_spec_with_every_default_written_out_is_the_same(tiny_job: Document) -> None:
    """So jobs come back from the store."""
    tiny_job["search"] = {
        "constraints": [
            {"matrices": ["a"], "density": [1, 1]},
            {"matrices": ["b"], "tied": "all"},
            {"matrices": ["c"], "density": [0.1, 0.5]},
        ],
        "seeds": [{"path": "x.json"}, {"ranks": [3, -1]}],
    }
    tiny_job["objective"] = {"kind": "target_bytes", "size": "1.5 GB"}
    spec = JobSpec.model_validate(tune(tiny_job))
    assert JobSpec.model_validate(spec.canonical()) == spec
    assert spec.canonical()["objective"] == {"kind": "target_bytes", "size": 1_500_000_000, "share": None}


@pytest.mark.parametrize("size", ["2 GB 500 MB", "1,5 GB", "1.5.2 GB", "1 G B", "-3 MB"])
def test_a_size_is_one_number_and_its_unit(tiny_job: Document, size: str) -> None:
    tiny_job["objective"] = {"kind": "target_bytes", "size": size}
    with pytest.raises(ValidationError, match=r"one number and its unit, like 120 MB or 1\.5 GB; got '"):
        JobSpec.model_validate(tune(tiny_job))


def planned(job: Document, dtype: str = "float32", roots: tuple[Path, ...] = ()) -> SearchPlan:
    return search_plan(JobSpec.model_validate(tune(job)), MATRICES, REST, dtype, Roots(folders=roots))


def require(job: Document) -> None:
    require_scorings(JobSpec.model_validate(tune(job)))


def test_plain_objectives(tiny_job: Document) -> None:
    plan = planned(tiny_job)
    assert (plan.objective, plan.seeds) == (TargetParams(share=0.4), ())
    assert plan.settings.full == 16
    assert plan.space.total_cost == plan.space.total_params == DENSE_NUMBERS
    tiny_job["objective"] = {"kind": "max_drop", "points": 1.5}
    assert planned(tiny_job).objective == MaxDrop(points=1.5)
    tiny_job["objective"] = {"kind": "pareto", "points": 3.0, "confidence": 0.9}
    expected = Pareto(smallest=0.2, largest=0.8, sizes=13, finalists=5, points=3.0)
    assert planned(tiny_job).objective == expected


@pytest.mark.parametrize(("dtype", "item_bytes"), [("float32", 4), ("bfloat16", 2), ("float16", 2)])
def test_bytes_are_of_the_working_dtype(tiny_job: Document, dtype: str, item_bytes: int) -> None:
    tiny_job["objective"] = {"kind": "target_bytes", "size": "5 kB"}
    plan = planned(tiny_job, dtype)
    assert plan.objective == TargetBytes(size_bytes=5000, other_bytes=1000 * item_bytes + 100)
    assert plan.space.total_cost == DENSE_NUMBERS * item_bytes
    budget = plan.space.budget(plan.objective.target(plan.space))
    assert budget + plan.objective.other_bytes == 5000


def test_a_share_of_the_dense_file(tiny_job: Document) -> None:
    tiny_job["objective"] = {"kind": "target_bytes", "share": 0.75}
    dense_bytes = 4 * (1000 + DENSE_NUMBERS) + 40
    plan = planned(tiny_job)
    assert plan.objective == TargetBytes(
        size_bytes=int(0.75 * dense_bytes), other_bytes=4100, field="objective.share"
    )


def latency() -> Latency:
    """A microsecond for every rank, 20 for dense; half of a millisecond besides."""
    curve = Curve(
        ranks=(0, 10), nanoseconds=(0, 10_000), dense_nanoseconds=20_000, matrices=tuple(m.name for m in MATRICES)
    )  # fmt: skip
    return Latency(
        table=LatencyTable(curves=(curve,), other_nanoseconds=500_000),
        device="this machine's processor",
        dtype="float32",
        threads=1,
        workload=Workload(kind="prefill", rows=1, length=8),
        stretched=1.0,
        stretched_ranks=1.0,
        checked_nanoseconds=1,
        expected_nanoseconds=1,
    )


@pytest.mark.parametrize(
    ("asked", "nanoseconds", "field"),
    [
        ({"milliseconds": 0.6}, 600_000, "objective.milliseconds"),
        ({"share": 0.75}, 510_000, "objective.share"),
    ],
)
def test_budgets_of_a_latency_are_in_nanoseconds(
    tiny_job: Document, asked: Document, nanoseconds: int, field: str
) -> None:
    tiny_job["objective"] = {"kind": "target_latency", **asked}
    table = latency()
    plan = search_plan(JobSpec.model_validate(tune(tiny_job)), MATRICES, REST, "float32", (), table)
    expected = TargetLatency(nanoseconds=nanoseconds, other_nanoseconds=500_000, field=field)
    assert (plan.objective, plan.latency) == (expected, table)
    assert plan.space.total_cost == 9 * 20_000
    assert plan.space.genes[0].levels == ((0,), (1,), (2,), (3,), (4,), (5,), (6,), (7,), (DENSE,))
    assert plan.space.cost_GL[0].tolist()[:8] == list(range(0, 8000, 1000))
    assert plan.space.budget(expected.target(plan.space)) + 500_000 == nanoseconds


def test_before_anything_is_timed_all_but_the_reach_is_checked(tiny_job: Document) -> None:
    tiny_job["objective"] = {"kind": "target_latency", "milliseconds": 1e-6}
    check_search_plan(JobSpec.model_validate(tune(tiny_job)), MATRICES, REST, "float32", ())
    tiny_job["search"] = {"constraints": [{"matrices": ["conv"], "tied": "all"}]}
    with pytest.raises(InputError, match="no matrix to prune matches"):
        check_search_plan(JobSpec.model_validate(tune(tiny_job)), MATRICES, REST, "float32", ())
    tiny_job["search"] = {"seeds": [{"ranks": [3]}]}
    with pytest.raises(InputError, match="of 9 matrices, got 1"):
        check_search_plan(JobSpec.model_validate(tune(tiny_job)), MATRICES, REST, "float32", ())


def test_constraints_reach_the_space(tiny_job: Document) -> None:
    tiny_job["search"] = {
        "constraints": [
            {"matrices": ["q_proj", "k_proj"], "tied": "layer"},
            {"matrices": ["layers.[01].up_proj"], "tied": "all", "density": [0, 0.5]},
            {"matrices": ["layers.2.*"], "density": [1, 1]},
        ]
    }
    tiny_job["objective"]["share"] = 0.6
    space = planned(tiny_job).space
    assert [gene.members for gene in space.genes] == [(0, 1), (2, 5), (3, 4)]
    assert space.ranks(space.smallest_genome) == (0, 0, 0, 0, 0, 0, DENSE, DENSE, DENSE)


def test_seeds_of_every_kind(tiny_job: Document, tmp_path: Path) -> None:
    ranks = {matrix.name: rank for matrix, rank in zip(MATRICES, (4, 2, DENSE) * 3, strict=True)}
    documents = {
        "plain.json": {"ranks": {**ranks, "lm_head": 3}},
        "ranksieve.json": {"job_id": "x", "summary": {"ranks": ranks}},
        "job.json": {"id": "x", "result": {"ranks": ranks}},
    }
    for name, document in documents.items():
        (tmp_path / name).write_text(json.dumps(document))
    tiny_job["search"] = {"seeds": [*({"path": name} for name in documents), {"ranks": list(ranks.values())}]}
    plan = planned(tiny_job, roots=(tmp_path,))
    assert [plan.space.ranks(seed) for seed in plan.seeds] == [(4, 2, DENSE) * 3] * 4


def test_a_seed_in_a_large_file_is_refused_unread(tiny_job: Document, tmp_path: Path) -> None:
    with (tmp_path / "sparse.json").open("wb") as stream:
        stream.truncate(2**40)
    tiny_job["search"] = {"seeds": [{"path": "sparse.json"}]}
    with pytest.raises(InputError, match=r"sparse\.json has more than 16,777,216 bytes"):
        planned(tiny_job, roots=(tmp_path,))


def test_a_seed_that_no_file_is_read_from_is_refused(tiny_job: Document, tmp_path: Path) -> None:
    """Whoever opens a named pipe waits for its writer."""
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "folder.json").mkdir()
    for name in ("pipe.json", "folder.json"):
        tiny_job["search"] = {"seeds": [{"path": name}]}
        with pytest.raises(InputError, match=rf"search\.seeds.*{name} is not a file; name one JSON file"):
            planned(tiny_job, roots=(tmp_path,))


@pytest.mark.parametrize(
    ("objective", "needed"),
    [
        ({"kind": "pareto"}, 13 + 9),  # of each size, the user's
        ({"kind": "max_drop"}, 13 + 9),
        ({"kind": "target_params", "share": 0.4}, 2 + 9),  # Lagrangian and uniform
    ],
)
def test_no_seed_is_left_out_for_want_of_scorings(
    tiny_job: Document, objective: Document, needed: int
) -> None:
    tiny_job["objective"] = objective
    seeds = [{"ranks": [rank] * 9} for rank in range(9)]
    tiny_job["search"] = {"seeds": seeds, "max_evaluations": needed}
    assert len(planned(tiny_job).seeds) == 9
    require(tiny_job)
    tiny_job["search"]["max_evaluations"] = needed - 1
    words = rf"search\.max_evaluations: must be at least {needed}, .* 9 genomes of search\.seeds.*; got {needed - 1}\."
    with pytest.raises(InputError, match=words):
        require(tiny_job)
    assert len(planned(tiny_job).seeds) == 9  # a job that was accepted goes on


def test_every_size_of_a_front_is_scored(tiny_job: Document) -> None:
    tiny_job["objective"] = {"kind": "pareto"}
    tiny_job["search"] = {"max_evaluations": 13}
    require(tiny_job)
    tiny_job["search"]["max_evaluations"] = 12
    words = r"search\.max_evaluations: must be at least 13, one for each size of a front; got 12"
    with pytest.raises(InputError, match=words):
        require(tiny_job)


def test_the_example_with_constraints_can_be_done_on_its_model() -> None:
    spec = load_spec(Path(__file__).parents[3] / "deploy" / "examples" / "constrained.yaml")
    smollm2_135m = LlamaConfig(
        vocab_size=49_152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
        num_key_value_heads=3, tie_word_embeddings=True,
    )  # fmt: skip
    model = empty_model(smollm2_135m)
    matrices = find_matrices(model)
    plan = search_plan(spec, matrices, remainder(model, matrices), "bfloat16", [])
    assert len(matrices) == 210
    # 7 dense in layer 0, o_proj of layer 29 dropped; 29 q-k-v genes; 20 matrices in one; 29 + 28 + 38 single ones
    assert len(plan.space) == 29 + 1 + 29 + 28 + 38
    assert plan.space.total_params == 106_168_320
    assert isinstance(plan.objective, TargetBytes)
    dense_bytes = plan.objective.other_bytes + plan.space.total_cost
    assert dense_bytes == pytest.approx(269.1e6, rel=5e-4)  # as its file is, but for the slack of the headers
    assert 0.2 < plan.objective.target(plan.space) < 0.6
    assert plan.seeds == ()
