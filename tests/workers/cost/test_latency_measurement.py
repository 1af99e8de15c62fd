"""The table of a device on which a FLOP takes a nanosecond: what it has to say is known."""

import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import GPT2LMHeadModel

from ranksieve.search.errors import InputError
from ranksieve.search.space.matrix import MatrixShape
from ranksieve.workers.cost import latency_measurement
from ranksieve.workers.cost.latency import Latency, LatencyPlan
from ranksieve.workers.cost.latency_measurement import MOST_RANKS, measure_latency, measured_ranks
from ranksieve.workers.cost.workload import Workload, WorkloadKind, forward_pass
from ranksieve.workers.factors.prepared import Prepared
from ranksieve.workers.model.layers import replace_linears
from ranksieve.workers.model.loading import load_prepared
from ranksieve.workers.model.matrices import find_matrices
from ranksieve.workers.types.progress import Progress

MakeTimer = Callable[[torch.device, int], Any]


@pytest.fixture(autouse=True)
def _few_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """FLOPs have no noise."""
    monkeypatch.setattr(latency_measurement, "ROUNDS", 1)


@pytest.fixture(scope="module")
def plan(prepared: Prepared) -> LatencyPlan:
    return LatencyPlan(
        model_folder=prepared.model.folder,
        matrices=prepared.matrices,
        rank_step=4,
        workload=Workload(kind="prefill", rows=2, length=5),
        threads=1,
        device="cpu",
    )


def measured(plan: LatencyPlan, make_timer: MakeTimer) -> Latency:
    *progress, latency = measure_latency(plan, make_timer)
    assert [item.done for item in progress if isinstance(item, Progress)] == [0, 1, 2]
    assert isinstance(latency, Latency)
    return latency


@pytest.fixture(scope="module")
def straight(plan: LatencyPlan, make_flop_timer: MakeTimer) -> Latency:
    """What a prefill takes where a matrix takes as long inside the model as alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(latency_measurement, "ROUNDS", 1)
        return measured(plan, make_flop_timer)


@pytest.mark.parametrize("kind", ["prefill", "decode"])
def test_every_rank_costs_its_flops(
    plan: LatencyPlan, straight: Latency, kind: WorkloadKind, make_flop_timer: MakeTimer
) -> None:
    decoding = replace(plan, workload=replace(plan.workload, kind="decode"))
    latency = straight if kind == "prefill" else measured(decoding, make_flop_timer)
    tokens = 10 if kind == "prefill" else 2
    for matrix in plan.matrices:
        for rank in matrix.grid(4):
            assert latency.table.price(matrix, rank) == 2 * tokens * matrix.price(rank)
    assert latency.stretched == latency.stretched_ranks == 1
    assert latency.checked_nanoseconds == latency.expected_nanoseconds
    assert (latency.device, latency.dtype, latency.threads) == ("this machine's processor", "float32", 1)
    assert Latency.from_json(json.loads(json.dumps(latency.to_json()))) == latency


def test_the_table_adds_up_to_the_whole_model_and_has_each_shape_once(
    plan: LatencyPlan, straight: Latency
) -> None:
    table = straight.table
    shapes = {(matrix.out_features, matrix.in_features) for matrix in plan.matrices}
    assert len(table.curves) == len(shapes) < len(plan.matrices)
    named = sorted(name for curve in table.curves for name in curve.matrices)
    assert named == sorted(matrix.name for matrix in plan.matrices)
    model = load_prepared(plan.model_folder, torch.device("cpu"))
    run = forward_pass(model, plan.workload)
    with FlopCounterMode(display=False) as dense:
        run.run()
    replace_linears(model, {matrix.name: 0 for matrix in plan.matrices})
    with FlopCounterMode(display=False) as gone:
        run.run()
    assert table.dense_nanoseconds == dense.get_total_flops()
    assert table.other_nanoseconds == gone.get_total_flops() > 0


def test_what_matrices_take_longer_inside_the_model_stretches_the_table(
    plan: LatencyPlan, straight: Latency, make_flop_timer: MakeTimer
) -> None:
    class SlowInModel(make_flop_timer):  # type: ignore[misc, valid-type]
        def time(self, call: Callable[[], object]) -> None:
            super().time(call)
            if call.__qualname__.startswith("forward_pass"):
                self.taken[-1] = 3 * self.taken[-1] // 2

    slow = measured(plan, SlowInModel)
    assert slow.stretched == pytest.approx(1.5)
    assert slow.stretched_ranks == pytest.approx(1.5)
    assert slow.table.dense_nanoseconds == pytest.approx(1.5 * straight.table.dense_nanoseconds, rel=1e-3)
    assert slow.expected_nanoseconds == pytest.approx(slow.checked_nanoseconds, rel=1e-3)


def test_noise_that_runs_against_the_ranks_is_evened_out(
    plan: LatencyPlan, make_flop_timer: MakeTimer
) -> None:
    class Noisy(make_flop_timer):  # type: ignore[misc, valid-type]
        calls = 0

        def time(self, call: Callable[[], object]) -> None:
            super().time(call)
            Noisy.calls += 1
            if not call.__qualname__.startswith("forward_pass"):
                self.taken[-1] += 2500 * (Noisy.calls % 3)

    latency = measured(plan, Noisy)
    for curve in latency.table.curves:  # a curve that fell would have been refused
        assert len(curve.ranks) > 2
    assert latency.table.dense_nanoseconds > latency.table.other_nanoseconds


def test_matrices_that_take_no_time_are_refused(plan: LatencyPlan, make_flop_timer: MakeTimer) -> None:
    class Still(make_flop_timer):  # type: ignore[misc, valid-type]
        def time(self, call: Callable[[], object]) -> None:
            super().time(call)
            self.taken[-1] = 7

    with pytest.raises(InputError, match="take no measurable time"):
        measured(plan, Still)


def test_biases_and_conv1d_make_shapes_of_their_own(
    make_gpt2: Callable[[], GPT2LMHeadModel], make_flop_timer: MakeTimer, tmp_path: Any
) -> None:
    model = make_gpt2()
    model.save_pretrained(tmp_path)
    plan = LatencyPlan(
        model_folder=tmp_path,
        matrices=find_matrices(model),
        rank_step=8,
        workload=Workload(kind="prefill", rows=2, length=5),
        threads=1,
        device="cpu",
    )
    latency = measured(plan, make_flop_timer)
    assert {len(curve.matrices) for curve in latency.table.curves} == {2}  # four shapes in two layers
    assert latency.table.dense_nanoseconds > latency.table.other_nanoseconds


def test_a_fine_grid_is_timed_at_some_of_its_ranks() -> None:
    matrix = MatrixShape(name="m", out_features=1536, in_features=576, layer=0, kind="m")
    assert measured_ranks(matrix, 16) == (*range(0, 417, 16), 418)  # 418 may be frozen
    fine = measured_ranks(matrix, 1)
    assert len(fine) == MOST_RANKS + 1
    assert (fine[0], fine[1], fine[-1]) == (0, 1, matrix.largest_rank)
    gaps = [b - a for a, b in itertools.pairwise(fine[1:])]
    assert max(gaps) - min(gaps) <= 1


def test_a_matrix_too_small_for_any_rank_is_dense_or_gone(
    plan: LatencyPlan, make_flop_timer: MakeTimer
) -> None:
    latency = measured(replace(plan, rank_step=1000), make_flop_timer)
    assert all(
        len(curve.ranks) == 2 for curve in latency.table.curves
    )  # gone, and the last that may be frozen
    assert latency.checked_nanoseconds == latency.expected_nanoseconds == latency.table.other_nanoseconds
