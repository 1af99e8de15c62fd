import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    PreTrainedModel,
)

from ranksieve.workers.factors import closed_form as closed_form_module
from ranksieve.workers.factors import preparation
from ranksieve.workers.factors.preparation import prepare
from ranksieve.workers.factors.prepared import (
    PreparationPlan,
    Prepared,
    load_factors,
)
from ranksieve.workers.factors.training import Training
from ranksieve.workers.model.loading import load_prepared
from ranksieve.workers.types.plan import EncodedTask
from ranksieve.workers.types.progress import Progress


def run(plan: PreparationPlan) -> tuple[list[Progress], Prepared]:
    *progress, prepared = prepare(plan)
    assert isinstance(prepared, Prepared)
    assert all(isinstance(item, Progress) for item in progress)
    return progress, prepared  # type: ignore[return-value]


@pytest.mark.parametrize(("stored", "computed"), [("float16", torch.float32), ("bfloat16", torch.bfloat16)])
def test_float16_is_calibrated_and_trained_in_float32(
    preparation_plan: PreparationPlan,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stored: str,
    computed: torch.dtype,
) -> None:
    ran = set()

    def noted(*arguments: Any) -> PreTrainedModel:
        model = load_prepared(*arguments)
        ran.add(model.dtype)
        return model

    for module in (closed_form_module, preparation):
        monkeypatch.setattr(module, "load_prepared", noted)
    source = replace(preparation_plan.model, dtype=stored)
    training = Training(epochs=1, rank_step=4)
    _, prepared = run(replace(preparation_plan, model=source, cache_dir=tmp_path, training=training))
    left_RO, _ = load_factors(prepared.factors)[prepared.matrices[0].name]
    assert left_RO.dtype is getattr(torch, stored)
    assert ran == {computed}


def test_refined_factors_lie_beside_the_closed_form(
    preparation_plan: PreparationPlan, prepared: Prepared
) -> None:
    training = Training(epochs=2, rank_step=4)
    plan = replace(preparation_plan, training=training)
    progress, trained = run(plan)
    phases = [phase for phase, _ in itertools.groupby(item.phase for item in progress)]
    assert phases == ["model", "training"]  # the closed form comes from the cache
    assert progress[-1].done == progress[-1].total == 2
    assert trained.factors != prepared.factors
    assert run(preparation_plan)[1].factors == prepared.factors
    before, after = load_factors(prepared.factors), load_factors(trained.factors)
    assert {name: [half.shape for half in pair] for name, pair in before.items()} == {
        name: [half.shape for half in pair] for name, pair in after.items()
    }
    assert any(not before[name][0].equal(after[name][0]) for name in before)
    assert [item.phase for item in run(plan)[0]] == 2 * ["model"]


def test_training_takes_the_first_examples(
    preparation_plan: PreparationPlan, make_task: Callable[..., EncodedTask]
) -> None:
    training, task = Training(epochs=2, rank_step=4), make_task("choice")
    calibration = task.splits["calibration"]
    assert len(calibration) > 3
    few = replace(
        task,
        splits={**task.splits, "calibration": calibration[:3]},
        split_digests={**task.split_digests, "calibration": "the first three"},
    )
    plan = replace(preparation_plan, gram_examples=3)  # one closed form for all
    _, fewer = run(replace(plan, task=task, training=replace(training, examples=3)))
    _, cut = run(replace(plan, task=few, training=training))
    _, whole = run(replace(plan, task=task, training=training))
    fewer_factors, cut_factors, whole_factors = (
        load_factors(prepared.factors) for prepared in (fewer, cut, whole)
    )
    for name in fewer_factors:
        assert all(map(torch.equal, fewer_factors[name], cut_factors[name]))
    assert not all(torch.equal(fewer_factors[name][0], whole_factors[name][0]) for name in fewer_factors)


def test_key_holds_what_shapes_refined_factors(
    preparation_plan: PreparationPlan,
    make_task: Callable[..., EncodedTask],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(preparation, "_train", lambda *_: iter(()))
    training = Training(epochs=1, rank_step=4)
    base = replace(preparation_plan, training=training, cache_dir=tmp_path)
    changed = [
        base,
        replace(base, training=replace(training, epochs=2)),
        replace(base, training=replace(training, examples=3)),
        replace(base, training=replace(training, learning_rate=1e-3)),
        replace(base, training=replace(training, kl_weight=1.0)),
        replace(base, training=replace(training, rank_step=8)),
        replace(base, seed=1),
    ]
    assert len({run(plan)[1].factors for plan in changed}) == len(changed)
