import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    PreTrainedModel,
)

from ranksieve.search.errors import InfrastructureError, ScoringError
from ranksieve.search.space.objectives import MaxDrop
from ranksieve.search.space.space import SearchSpace
from ranksieve.search.start.seeds import lagrangian
from ranksieve.workers.factors import closed_form as closed_form_module
from ranksieve.workers.factors import preparation, propagation
from ranksieve.workers.factors.preparation import prepare
from ranksieve.workers.factors.prepared import (
    PreparationPlan,
    Prepared,
    Propagation,
    load_answer_bias,
    load_factors,
)
from ranksieve.workers.factors.training import Refinement
from ranksieve.workers.forward import blockwise
from ranksieve.workers.model.loading import load_prepared
from ranksieve.workers.model.switchable import SwitchableModel
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
    refinement = Refinement(epochs=1, rank_step=4)
    _, prepared = run(replace(preparation_plan, model=source, cache_dir=tmp_path, refinement=refinement))
    left_RO, _ = load_factors(prepared.factors)[prepared.matrices[0].name]
    assert left_RO.dtype is getattr(torch, stored)
    assert ran == {computed}


def test_refined_factors_lie_beside_the_closed_form(
    preparation_plan: PreparationPlan, prepared: Prepared
) -> None:
    refinement = Refinement(epochs=2, rank_step=4)
    plan = replace(preparation_plan, refinement=refinement)
    progress, refined = run(plan)
    phases = [phase for phase, _ in itertools.groupby(item.phase for item in progress)]
    assert phases == ["model", "refinement"]  # the closed form comes from the cache
    assert progress[-1].done == progress[-1].total == 2
    assert refined.factors != prepared.factors
    assert run(preparation_plan)[1].factors == prepared.factors
    before, after = load_factors(prepared.factors), load_factors(refined.factors)
    assert {name: [half.shape for half in pair] for name, pair in before.items()} == {
        name: [half.shape for half in pair] for name, pair in after.items()
    }
    assert any(not before[name][0].equal(after[name][0]) for name in before)
    assert [item.phase for item in run(plan)[0]] == 2 * ["model"]


def judged(
    monkeypatch: pytest.MonkeyPatch,
    *losses: float | Sequence[float],
    with_bias: Sequence[float] = (0.1,),
    without: Sequence[float] = (0.2,),
) -> list[Any]:
    """Has candidates lose so much, one after the other, on every record or by record, and be so unlikely right, in
    turns; returns who was asked for losses."""
    asked: list[Any] = []
    unlikely = {True: itertools.cycle(without), False: itertools.cycle(with_bias)}

    def example_losses(model: SwitchableModel, ranks: tuple[int, ...], *arguments: Any) -> torch.Tensor:
        _, examples, *_, kl_weight = arguments
        lost: float | Sequence[float]
        if kl_weight == 0:
            lost = next(unlikely[model.answer_bias is None])
        else:
            assert model.answer_bias is None
            asked.append((ranks, *arguments))
            lost = losses[len(asked) - 1]
        return torch.tensor(lost, dtype=torch.float64).expand(len(examples))

    monkeypatch.setattr(preparation, "example_losses", example_losses)
    return asked


def test_propagated_factors_lie_beside_the_closed_form(
    preparation_plan: PreparationPlan, prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = judged(monkeypatch, 0.25, 0.125)
    plan = replace(
        preparation_plan, propagated_shares=(0.4, 0.9), refinement=Refinement(rank_step=2, kl_weight=0.7)
    )
    progress, propagated = run(plan)
    assert [item.phase for item in progress] == 2 * ["model"] + 3 * ["propagation"]
    assert [(item.done, item.total) for item in progress[2:]] == [(1, 3), (2, 3), (3, 3)]
    before, after = load_factors(prepared.factors), load_factors(propagated.factors)
    assert {name: [half.shape for half in pair] for name, pair in before.items()} == {
        name: [half.shape for half in pair] for name, pair in after.items()
    }
    assert any(not before[name][0].equal(after[name][0]) for name in before)
    assert propagated.propagation == Propagation(
        shares=(0.4, 0.9), loss_before=0.25, loss_after=0.125, standard_error=0.0, answer_bias=True
    )
    same = replace(propagated, factors=prepared.factors, energies=prepared.energies, propagation=None)
    assert same == prepared
    for old, new in zip(prepared.energies, propagated.energies, strict=True):
        assert new.shape == old.shape
        assert (np.diff(new) <= 0).all()
        assert (new >= 0).all()
    assert any(not np.array_equal(*pair) for pair in zip(prepared.energies, propagated.energies, strict=True))

    space = SearchSpace(prepared.matrices, 2)
    calibration = plan.task.splits["calibration"]
    for energies, (ranks, kind, judges, batch_tokens, kl_weight) in zip(
        (prepared.energies, propagated.energies), asked, strict=True
    ):
        assert ranks == space.ranks(lagrangian(space, energies, 0.6))  # the middle one
        assert judges == calibration[-3:]
        assert (kind, batch_tokens, kl_weight) == ("choice", plan.batch_tokens, 0.7)

    progress, trained = run(replace(plan, refinement=replace(plan.refinement, epochs=1)))
    assert {item.phase for item in progress} == {"model", "refinement"}
    assert trained.propagation == propagated.propagation
    head_V = load_answer_bias(propagated.factors)
    assert head_V is not None
    assert head_V.any()
    assert head_V.equal(load_answer_bias(trained.factors))
    assert load_answer_bias(prepared.factors) is None
    assert [item.phase for item in run(plan)[0]] == 2 * ["model"]
    judged(monkeypatch, 0.25, 0.125)
    others = [run(one)[1] for one in (preparation_plan, replace(plan, propagated_shares=(0.4,)))]
    assert len({one.factors for one in (propagated, trained, *others)}) == 4


def test_closed_form_stays_where_propagation_loses_more(
    preparation_plan: PreparationPlan, prepared: Prepared, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    judged(monkeypatch, 0.25, 0.375)
    plan = replace(
        preparation_plan,
        propagated_shares=(0.5,),
        refinement=Refinement(rank_step=2),
        cache_dir=tmp_path / "cache",
    )
    for _ in range(2):  # the second time from the cache
        _, kept = run(plan)
        assert kept.factors.name == prepared.factors.name
        assert kept.propagation == Propagation(
            shares=(0.5,), loss_before=0.25, loss_after=0.375, standard_error=0.0, answer_bias=True
        )


def test_standard_error_is_that_of_the_difference(
    preparation_plan: PreparationPlan, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Record by record; either loss alone is known less well."""
    judged(monkeypatch, (0.1, 0.5, 0.9), (0.0, 0.5, 1.15))
    refinement = Refinement(rank_step=2)
    plan = replace(preparation_plan, propagated_shares=(0.5,), refinement=refinement, cache_dir=tmp_path)
    found = run(plan)[1].propagation
    assert found is not None
    assert (found.loss_before, found.loss_after) == pytest.approx((0.5, 0.55))
    assert found.standard_error == pytest.approx(np.std([-0.1, 0.0, 0.25]) / math.sqrt(3))


@pytest.mark.parametrize(
    ("loss_after", "standard_error", "kept"),
    [
        (0.55, 0.085, True),
        (0.55, 0.041, False),
        (0.55, 0.0, False),
        (0.5, 0.0, False),
        (0.45, 0.0, True),
        (math.inf, math.nan, False),
        (math.nan, 0.0, False),
        (None, None, False),
    ],
)
def test_propagated_factors_are_kept_unless_known_to_lose_more(
    loss_after: float | None, standard_error: float | None, kept: bool
) -> None:
    found = Propagation(shares=(0.5,), loss_before=0.5, loss_after=loss_after, standard_error=standard_error)
    assert found.kept == kept


@pytest.mark.parametrize(
    ("with_bias", "without", "kept"),
    [
        ([0.2, 0.2], [0.2, 0.2], False),
        ([0.1, math.nan], [0.2, 0.2], False),
        ([0.1, 0.4], [0.2, 0.2], False),
        ([0.3, 0.05], [0.2, 0.2], True),  # of one size it may be told otherwise by chance
    ],
)
def test_bias_stays_if_right_answers_get_likelier(
    preparation_plan: PreparationPlan,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    with_bias: list[float],
    without: list[float],
    kept: bool,
) -> None:
    """The factors are judged without it, either way."""
    judged(monkeypatch, 0.25, 0.125, with_bias=with_bias, without=without)
    cache, refinement = tmp_path / "cache", Refinement(rank_step=2)
    plan = replace(preparation_plan, propagated_shares=(0.3, 0.8), refinement=refinement, cache_dir=cache)
    _, propagated = run(plan)
    assert propagated.propagation == Propagation(
        shares=(0.3, 0.8), loss_before=0.25, loss_after=0.125, standard_error=0.0, answer_bias=kept
    )
    assert (load_answer_bias(propagated.factors) is not None) == kept


def test_no_bias_where_only_the_divergence_counts(
    preparation_plan: PreparationPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged(monkeypatch, 0.25, 0.125)
    refinement = Refinement(rank_step=2, kl_weight=1.0)
    _, propagated = run(replace(preparation_plan, propagated_shares=(0.5,), refinement=refinement))
    assert load_answer_bias(propagated.factors) is None


@pytest.mark.parametrize(
    ("points", "worst", "smallest"),
    [(4.2, 0.28, 0.31), (4.5, 0.45, 0.5), (5.0, 0.7, 0.6), (5.5, 0.1, 0.14)],
)
def test_shares_lie_around_the_smallest_model_within_a_drop(
    preparation_plan: PreparationPlan,
    prepared: Prepared,
    monkeypatch: pytest.MonkeyPatch,
    points: float,
    worst: float,
    smallest: float,
) -> None:
    """Smaller models than `worst` lose 6 points, larger ones 4."""
    judged(monkeypatch, 0.25, 0.125)
    judges = preparation_plan.task.splits["calibration"][-3:]

    def quality(_: SwitchableModel, ranks: list[int], kind: str, examples: Any, *__: Any) -> float:
        assert (kind, examples) == ("choice", judges)
        kept = [matrix.price(rank) for matrix, rank in zip(prepared.matrices, ranks, strict=True)]
        share = sum(kept) / prepared.block_params
        return 0.8 if share == 1 else 0.76 if share > worst else 0.74

    monkeypatch.setattr(propagation, "mean_quality", quality)
    plan = replace(
        preparation_plan, propagated_shares=MaxDrop(points=points), refinement=Refinement(rank_step=1)
    )
    _, propagated = run(plan)
    assert propagated.propagation is not None
    assert propagated.propagation.shares == pytest.approx([0.4 * smallest, 0.8 * smallest])


def test_why_errors_cannot_be_propagated_is_told(
    preparation_plan: PreparationPlan, prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stumble(error: Exception, *_: Any, **__: Any) -> Iterator[Any]:
        yield from ()
        raise error

    plan = replace(preparation_plan, propagated_shares=(0.45,), refinement=Refinement(rank_step=2))
    monkeypatch.setattr(preparation, "propagate", partial(stumble, ScoringError("inf")))
    _, kept = run(plan)
    assert kept == replace(prepared, energies=kept.energies, propagation=Propagation(reason="inf"))
    assert not kept.propagation.kept  # type: ignore[union-attr]
    faults = (
        MemoryError(),
        torch.OutOfMemoryError("no"),
        InfrastructureError("no"),
        KeyError("a fault of ours"),
    )
    for error in faults:
        monkeypatch.setattr(preparation, "propagate", partial(stumble, error))
        with pytest.raises(type(error)):
            run(plan)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        torch.AcceleratorError("CUDA error: out of memory"),
        torch.AcceleratorError("CUDA error: an illegal memory access was encountered"),
    ],
)
def test_faults_of_the_machine_are_raised(
    preparation_plan: PreparationPlan, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(blockwise, "_answering", fail)
    plan = replace(preparation_plan, propagated_shares=(0.45,), refinement=Refinement(rank_step=2))
    with pytest.raises(type(error), match=str(error)[:20]):
        run(plan)


def test_training_takes_the_first_examples(
    preparation_plan: PreparationPlan, make_task: Callable[..., EncodedTask]
) -> None:
    refinement, task = Refinement(epochs=2, rank_step=4), make_task("choice")
    calibration = task.splits["calibration"]
    assert len(calibration) > 3
    few = replace(
        task,
        splits={**task.splits, "calibration": calibration[:3]},
        split_digests={**task.split_digests, "calibration": "the first three"},
    )
    plan = replace(preparation_plan, method="weight")  # whose closed form ignores the data
    _, fewer = run(replace(plan, task=task, refinement=replace(refinement, examples=3)))
    _, cut = run(replace(plan, task=few, refinement=refinement))
    _, whole = run(replace(plan, task=task, refinement=refinement))
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
    monkeypatch.setattr(preparation, "_refine", lambda *_: iter(()))
    refinement = Refinement(epochs=1, rank_step=4)
    base = replace(preparation_plan, refinement=refinement, method="weight", cache_dir=tmp_path)
    changed = [
        base,
        replace(base, refinement=replace(refinement, epochs=2)),
        replace(base, refinement=replace(refinement, examples=3)),
        replace(base, refinement=replace(refinement, learning_rate=1e-3)),
        replace(base, refinement=replace(refinement, kl_weight=1.0)),
        replace(base, refinement=replace(refinement, rank_step=8)),
        replace(base, seed=1),
        replace(base, task=make_task("choice", seed=1)),  # the closed form of `weight` ignores the data
    ]
    assert len({run(plan)[1].factors for plan in changed}) == len(changed)
