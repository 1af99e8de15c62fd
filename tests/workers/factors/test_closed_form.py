import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import MambaConfig, MambaForCausalLM, PreTrainedTokenizerFast

from ranksieve.search.errors import InputError
from ranksieve.workers.factors import closed_form
from ranksieve.workers.factors.closed_form import key_of
from ranksieve.workers.factors.preparation import prepare
from ranksieve.workers.factors.prepared import PreparationPlan, Prepared, load_factors
from ranksieve.workers.model.loading import load_prepared
from ranksieve.workers.model.switchable import SwitchableModel
from ranksieve.workers.types.plan import EncodedTask, ModelSource
from ranksieve.workers.types.progress import Progress


def run(plan: PreparationPlan) -> tuple[list[Progress], Prepared]:
    *progress, prepared = prepare(plan)
    assert isinstance(prepared, Prepared)
    return progress, prepared  # type: ignore[return-value]


def assert_same(one: Prepared, other: Prepared) -> None:
    assert one.factors.name == other.factors.name
    ours, theirs = load_factors(one.factors), load_factors(other.factors)
    assert all(ours[name][side].equal(theirs[name][side]) for name in ours for side in (0, 1))


def test_progress_then_the_result(preparation_plan: PreparationPlan, tmp_path: Path) -> None:
    progress, prepared = run(replace(preparation_plan, cache_dir=tmp_path))
    phases = [phase for phase, _ in itertools.groupby(item.phase for item in progress)]
    assert phases == ["model", "calibration", "projection"]
    for phase in phases[1:]:
        last = [item for item in progress if item.phase == phase][-1]
        assert last.done == last.total > 0
    assert len(prepared.matrices) == len(prepared.energies) == 14
    assert prepared.block_params == sum(matrix.dense_params for matrix in prepared.matrices)
    assert prepared.total_params == prepared.block_params + 2 * 48 * 32 + 5 * 32


def test_second_run_is_served_from_the_cache(preparation_plan: PreparationPlan, prepared: Prepared) -> None:
    progress, again = run(preparation_plan)
    assert [item.phase for item in progress] == 2 * ["model"]
    assert replace(again, energies=prepared.energies) == prepared
    for before, after in zip(prepared.energies, again.energies, strict=True):
        np.testing.assert_array_equal(before, after)


def test_energies_descend_and_are_finite(prepared: Prepared) -> None:
    for matrix, energy_K in zip(prepared.matrices, prepared.energies, strict=True):
        assert energy_K.shape == (min(matrix.out_features, matrix.in_features),)
        assert energy_K[0] > 0
        assert (np.diff(energy_K) <= 0).all()
        assert (energy_K >= 0).all()


def test_factors_reach_the_largest_useful_rank(prepared: Prepared) -> None:
    factors = load_factors(prepared.factors)
    assert set(factors) == {matrix.name for matrix in prepared.matrices}
    for matrix in prepared.matrices:
        left_RO, right_RD = factors[matrix.name]
        rank = math.ceil(matrix.dense_params / (matrix.out_features + matrix.in_features)) - 1
        assert (left_RO.shape, right_RD.shape) == (
            (rank, matrix.out_features),
            (rank, matrix.in_features),
        )


def test_matrix_that_is_not_called_is_named(
    preparation_plan: PreparationPlan, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    config = MambaConfig(vocab_size=48, hidden_size=16, num_hidden_layers=1, state_size=4)
    MambaForCausalLM(config).save_pretrained(tmp_path / "mamba")
    tokenizer.save_pretrained(tmp_path / "mamba")
    source = ModelSource(kind="path", location=str(tmp_path / "mamba"), dtype="float32")
    with pytest.raises(InputError, match=r"dt_proj cannot be calibrated: it was not called"):
        run(replace(preparation_plan, model=source, cache_dir=tmp_path / "cache"))


def test_second_moments_of_the_first_examples(preparation_plan: PreparationPlan, tmp_path: Path) -> None:
    task, few = preparation_plan.task, preparation_plan.task.splits["calibration"][:3]
    assert len(few) < len(task.splits["calibration"])
    short = replace(task, splits={**task.splits, "calibration": few})
    _, expected = run(replace(preparation_plan, task=short, cache_dir=tmp_path / "short"))
    _, got = run(replace(preparation_plan, gram_examples=3))
    wanted, factors = load_factors(expected.factors), load_factors(got.factors)
    assert all(factors[name][0].equal(left_RO) for name, (left_RO, _) in wanted.items())


def test_include_decides_what_is_factored(preparation_plan: PreparationPlan, tmp_path: Path) -> None:
    source = replace(preparation_plan.model, include=("mlp.*",), exclude=("up_proj",))
    _, prepared = run(replace(preparation_plan, model=source, cache_dir=tmp_path))
    assert {matrix.kind for matrix in prepared.matrices} == {"mlp.gate_proj", "mlp.down_proj"}
    assert set(load_factors(prepared.factors)) == {matrix.name for matrix in prepared.matrices}


@torch.inference_mode()
def test_factors_approach_the_model(prepared: Prepared) -> None:
    model = load_prepared(prepared.model.folder, torch.device("cpu"))
    ids_BL = torch.tensor([[4, 9, 30, 12, 7]])
    dense = model(ids_BL).logits
    candidate = SwitchableModel(model, prepared.matrices, load_factors(prepared.factors))
    errors = []
    for share in (0.0, 0.6, 1.0):
        ranks = [int(share * m.largest_rank) for m in prepared.matrices]
        candidate.switch(ranks)
        errors.append(float((model(ids_BL).logits - dense).norm()))
    assert errors[2] < errors[1] < errors[0]


def test_little_memory_takes_more_passes(
    preparation_plan: PreparationPlan, prepared: Prepared, tmp_path: Path
) -> None:
    progress, again = run(replace(preparation_plan, gram_bytes=70_000, cache_dir=tmp_path))
    batches = [item for item in progress if item.phase == "calibration"]
    assert batches[-1].done == batches[-1].total
    assert len(list(again.factors.glob("factors-*"))) > 2
    assert_same(again, prepared)
    for before, after in zip(prepared.energies, again.energies, strict=True):
        np.testing.assert_array_equal(before, after)
    assert list(tmp_path.glob("factors-*/")) == [again.factors]


def test_interrupted_between_passes(
    preparation_plan: PreparationPlan, prepared: Prepared, tmp_path: Path
) -> None:
    plan = replace(preparation_plan, gram_bytes=70_000, cache_dir=tmp_path)
    running = prepare(plan)
    seen = 0
    for item in running:
        seen += isinstance(item, Progress) and item.phase == "calibration"
        if isinstance(item, Progress) and item.phase == "calibration" and item.done > 0.7 * item.total:
            total = item.total
            break
    running.close()  # type: ignore[attr-defined]
    progress, again = run(plan)
    left = sum(1 for item in progress if item.phase == "calibration")
    assert 0 < left < total
    assert seen + left > total  # the pass that was cut off is run again, whole
    assert_same(again, prepared)


def test_damaged_part_is_made_again(
    preparation_plan: PreparationPlan, prepared: Prepared, tmp_path: Path
) -> None:
    running = prepare(replace(preparation_plan, cache_dir=tmp_path))
    while next(running).phase != "projection":  # type: ignore[union-attr]
        pass
    (part,) = tmp_path.glob("part-*/factors.safetensors")
    part.write_bytes(part.read_bytes()[:-1] + b"x")
    *_, again = running
    assert isinstance(again, Prepared)
    assert_same(again, prepared)
    assert sorted(entry.name.split("-")[0] for entry in tmp_path.glob("*-*/")) == ["factors", "model"]


def test_key_holds_what_shapes_the_factors(
    preparation_plan: PreparationPlan, prepared: Prepared, make_task: Callable[..., EncodedTask]
) -> None:
    plan, model, task = preparation_plan, prepared.model, preparation_plan.task
    changed = [
        (replace(plan, seed=1), model),
        (replace(plan, batch_tokens=32), model),
        (replace(plan, gram_examples=3), model),
        (replace(plan, task=make_task("choice", seed=1)), model),
        (replace(plan, model=replace(plan.model, exclude=("q_proj",))), model),
        (replace(plan, model=replace(plan.model, include=("q_proj",))), model),
        (plan, replace(model, digest="other")),
        (plan, replace(model, dtype="bfloat16")),
    ]
    assert key_of(plan, model) == prepared.factors.name
    assert len({prepared.factors.name, *(key_of(*one) for one in changed)}) == len(changed) + 1
    # What is scored later does not matter, nor who computes.
    other_test = replace(task, digest="other", split_digests={**task.split_digests, "test": "other"})
    assert key_of(replace(plan, task=other_test, threads=2), model) == prepared.factors.name


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("torch.__version__", "another"),
        ("transformers.__version__", "another"),
        ("FORMAT", -1),
        ("pick_device", lambda _: torch.device("cuda")),
    ],
)
def test_key_holds_versions_and_kind_of_device(
    preparation_plan: PreparationPlan,
    prepared: Prepared,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    value: Any,
) -> None:
    monkeypatch.setattr(f"{closed_form.__name__}.{name}", value)
    assert key_of(preparation_plan, prepared.model) != prepared.factors.name
