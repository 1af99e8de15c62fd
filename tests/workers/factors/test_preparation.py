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
    GPT2LMHeadModel,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from ranksieve.search.errors import InfrastructureError, InputError, ScoringError
from ranksieve.search.space.objectives import MaxDrop
from ranksieve.search.space.space import SearchSpace
from ranksieve.search.start.seeds import lagrangian
from ranksieve.workers.factors import closed_form as closed_form_module
from ranksieve.workers.factors import preparation, propagation
from ranksieve.workers.factors.preparation import closed_form, prepare
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
from ranksieve.workers.model.matrices import find_matrices, weight_OD
from ranksieve.workers.model.switchable import SwitchableModel
from ranksieve.workers.types.plan import EncodedTask, ModelSource
from ranksieve.workers.types.progress import Progress


def run(plan: PreparationPlan) -> tuple[list[Progress], Prepared]:
    *progress, prepared = prepare(plan)
    assert isinstance(prepared, Prepared)
    assert all(isinstance(item, Progress) for item in progress)
    return progress, prepared  # type: ignore[return-value]


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
    assert (again.factors, again.model, again.matrices) == (
        prepared.factors,
        prepared.model,
        prepared.matrices,
    )
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


@pytest.mark.parametrize("method", ["weight", "input", "output"])
def test_methods_without_gradients(preparation_plan: PreparationPlan, tmp_path: Path, method: Any) -> None:
    progress, prepared = run(replace(preparation_plan, method=method, cache_dir=tmp_path))
    assert any(item.phase == "calibration" for item in progress) == (method != "weight")
    if method != "input":
        assert [float(energy_K.sum()) for energy_K in prepared.energies] == pytest.approx([1.0] * 14)


def test_a_matrix_that_the_model_reads_by_itself_is_named_by_every_method(
    preparation_plan: PreparationPlan, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    """Also where nothing is calibrated: at any rank the search would see no difference."""
    config = MambaConfig(vocab_size=48, hidden_size=16, num_hidden_layers=1, state_size=4)
    MambaForCausalLM(config).save_pretrained(tmp_path / "mamba")
    tokenizer.save_pretrained(tmp_path / "mamba")
    source = ModelSource(kind="path", location=str(tmp_path / "mamba"), dtype="float32")
    for method in ("weight", "output"):
        plan = replace(preparation_plan, model=source, method=method, cache_dir=tmp_path / "cache")
        with pytest.raises(InputError, match=r"dt_proj cannot be calibrated: it was not called"):
            run(plan)


def test_same_plan_same_factors_elsewhere(
    preparation_plan: PreparationPlan, prepared: Prepared, tmp_path: Path
) -> None:
    _, again = run(replace(preparation_plan, cache_dir=tmp_path))
    assert again.factors.name == prepared.factors.name
    ours, theirs = load_factors(prepared.factors), load_factors(again.factors)
    assert all(ours[name][side].equal(theirs[name][side]) for name in ours for side in (0, 1))


def test_second_moments_of_the_first_examples(preparation_plan: PreparationPlan, tmp_path: Path) -> None:
    task, few = preparation_plan.task, preparation_plan.task.splits["calibration"][:3]
    assert len(few) < len(task.splits["calibration"])
    short = replace(task, splits={**task.splits, "calibration": few})
    _, expected = run(replace(preparation_plan, task=short, cache_dir=tmp_path / "short"))
    _, got = run(replace(preparation_plan, gram_examples=3))
    wanted, factors = load_factors(expected.factors), load_factors(got.factors)
    assert all(factors[name][0].equal(left_RO) for name, (left_RO, _) in wanted.items())


def test_every_part_of_the_plan_that_shapes_the_factors_is_in_their_key(
    preparation_plan: PreparationPlan,
    prepared: Prepared,
    make_task: Callable[..., EncodedTask],
    make_llama: Callable[..., LlamaForCausalLM],
    tokenizer: PreTrainedTokenizerFast,
    tmp_path: Path,
) -> None:
    source, other = preparation_plan.model, make_llama()
    other.model.norm.weight.data[0] *= 2
    for part in (other, tokenizer):
        part.save_pretrained(tmp_path)
    changed = [
        replace(preparation_plan, seed=1),
        replace(preparation_plan, method="output"),
        replace(preparation_plan, model=replace(source, location=str(tmp_path))),
        replace(preparation_plan, batch_tokens=32),
        replace(preparation_plan, task=make_task("choice", seed=1)),
        replace(preparation_plan, model=replace(source, exclude=("q_proj",))),
        replace(preparation_plan, model=replace(source, dtype="bfloat16")),
    ]
    folders = [run(plan)[1].factors for plan in changed]
    assert len({prepared.factors, *folders}) == len(changed) + 1
    # What is scored later does not matter, nor who computes.
    task = preparation_plan.task
    other_test = replace(task, digest="other", split_digests={**task.split_digests, "test": "other"})
    assert run(replace(preparation_plan, task=other_test, threads=1))[1].factors == prepared.factors


def test_factors_of_another_version_or_kind_of_device_are_others(
    preparation_plan: PreparationPlan, prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    def key() -> str:
        return closed_form_module.key_of(preparation_plan, prepared.model)

    assert key() == prepared.factors.name
    for module, name, value in (
        (closed_form_module.torch, "__version__", "another"),
        (closed_form_module.transformers, "__version__", "another"),
        (closed_form_module, "FORMAT", -1),
        (closed_form_module, "pick_device", lambda _: torch.device("cuda")),
    ):
        with monkeypatch.context() as changed:
            changed.setattr(module, name, value)
            assert key() != prepared.factors.name, name


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


def test_conv1d_weights_are_factored_as_out_by_in(
    preparation_plan: PreparationPlan,
    make_gpt2: Callable[[], GPT2LMHeadModel],
    tokenizer: PreTrainedTokenizerFast,
    tmp_path: Path,
) -> None:
    model = make_gpt2()
    model.save_pretrained(tmp_path / "gpt2")
    tokenizer.save_pretrained(tmp_path / "gpt2")
    source = ModelSource(kind="path", location=str(tmp_path / "gpt2"), dtype="float32")
    _, prepared = run(replace(preparation_plan, model=source, method="weight", cache_dir=tmp_path / "cache"))
    name = "transformer.h.0.mlp.c_fc"
    left_RO, right_RD = load_factors(prepared.factors)[name]
    weight: Any = weight_OD(model.get_submodule(name))  # type: ignore[arg-type]
    u_OK, s_K, v_KD = torch.linalg.svd(weight, full_matrices=False)
    expected = u_OK[:, :5] * s_K[:5] @ v_KD[:5]
    torch.testing.assert_close(left_RO[:5].T @ right_RD[:5], expected, rtol=1e-4, atol=1e-4)
    assert prepared.total_params == model.num_parameters()  # the tied head counts once
    assert prepared.matrices == find_matrices(model)


def test_stopped_in_the_middle_leaves_no_entry(preparation_plan: PreparationPlan, tmp_path: Path) -> None:
    running = prepare(replace(preparation_plan, cache_dir=tmp_path))
    while next(running).phase != "calibration":  # type: ignore[union-attr]
        pass
    running.close()  # type: ignore[attr-defined]
    assert not list(tmp_path.glob("factors-*/"))
    assert run(replace(preparation_plan, cache_dir=tmp_path))[1].factors.is_dir()


def test_little_memory_for_grams_takes_more_passes_to_the_same_factors(
    preparation_plan: PreparationPlan, prepared: Prepared, tmp_path: Path
) -> None:
    progress, again = run(replace(preparation_plan, gram_bytes=70_000, cache_dir=tmp_path))
    batches = [item for item in progress if item.phase == "calibration"]
    assert batches[-1].done == batches[-1].total
    assert len(list(again.factors.glob("factors-*"))) > 2
    assert again.factors.name == prepared.factors.name
    ours, theirs = load_factors(prepared.factors), load_factors(again.factors)
    assert all(ours[name][side].equal(theirs[name][side]) for name in ours for side in (0, 1))
    for before, after in zip(prepared.energies, again.energies, strict=True):
        np.testing.assert_array_equal(before, after)
    assert list(tmp_path.glob("factors-*/")) == [again.factors]


def test_cut_off_between_passes_it_goes_on_with_the_next(
    preparation_plan: PreparationPlan, prepared: Prepared, tmp_path: Path
) -> None:
    plan = replace(preparation_plan, gram_bytes=70_000, cache_dir=tmp_path)
    running = prepare(plan)
    total = sum(
        1 for item in run(replace(plan, cache_dir=tmp_path / "other"))[0] if item.phase == "calibration"
    )
    seen = 0
    for item in running:
        seen += isinstance(item, Progress) and item.phase == "calibration"
        if isinstance(item, Progress) and item.phase == "calibration" and item.done > 0.7 * item.total:
            break
    running.close()  # type: ignore[attr-defined]
    progress, again = run(plan)
    left = sum(1 for item in progress if item.phase == "calibration")
    assert 0 < left < total
    assert seen + left > total  # the pass that was cut off is run again, whole
    assert again.factors.name == prepared.factors.name
    ours, theirs = load_factors(prepared.factors), load_factors(again.factors)
    assert all(ours[name][side].equal(theirs[name][side]) for name in ours for side in (0, 1))


def test_a_part_that_is_damaged_on_the_way_is_made_again(
    preparation_plan: PreparationPlan, prepared: Prepared, tmp_path: Path
) -> None:
    running = closed_form(replace(preparation_plan, cache_dir=tmp_path))
    while next(running).phase != "projection":  # type: ignore[union-attr]
        pass
    (part,) = tmp_path.glob("part-*/factors.safetensors")
    part.write_bytes(part.read_bytes()[:-1] + b"x")
    *_, again = running
    assert isinstance(again, Prepared)
    ours, theirs = load_factors(prepared.factors), load_factors(again.factors)
    assert all(ours[name][side].equal(theirs[name][side]) for name in ours for side in (0, 1))
    assert sorted(entry.name.split("-")[0] for entry in tmp_path.glob("*-*/")) == ["factors", "model"]


@pytest.mark.parametrize(("stored", "computed"), [("float16", torch.float32), ("bfloat16", torch.bfloat16)])
def test_float16_alone_is_calibrated_and_trained_in_float32(
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


def test_refined_factors_are_an_entry_of_their_own_beside_the_closed_form(
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


def test_propagated_factors_are_an_entry_of_their_own_and_so_are_those_that_are_trained_then(
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


@pytest.mark.parametrize("after", [0.25, 0.375, math.nan])
def test_factors_stay_where_a_model_loses_no_less_with_propagated_ones(
    preparation_plan: PreparationPlan,
    prepared: Prepared,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    after: float,
) -> None:
    judged(monkeypatch, 0.25, after)
    plan = replace(
        preparation_plan,
        propagated_shares=(0.5,),
        refinement=Refinement(rank_step=2),
        cache_dir=tmp_path / "cache",
    )
    for _ in range(2):  # the second time from the cache
        _, kept = run(plan)
        assert kept.factors.name == prepared.factors.name
        assert kept.propagation is not None
        assert not kept.propagation.kept
        assert repr(kept.propagation) == repr(
            Propagation(
                shares=(0.5,), loss_before=0.25, loss_after=after, standard_error=0 * after, answer_bias=True
            )
        )


@pytest.mark.parametrize(
    ("difference", "standard_error", "kept"),
    [
        ((-0.1, 0.0, 0.25), 0.085, True),
        ((0.0, 0.0, 0.15), 0.041, False),
        ((0.05, 0.05, 0.05), 0.0, False),
        ((-0.05, -0.05, -0.05), 0.0, True),
        ((-0.1, 0.0, math.inf), math.nan, False),
    ],
)
def test_propagated_factors_are_kept_unless_a_model_is_known_to_lose_more_with_them(
    preparation_plan: PreparationPlan,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    difference: tuple[float, ...],
    standard_error: float,
    kept: bool,
) -> None:
    """Known to one standard error of the difference, record by record; not of either loss, which is known less well."""
    before = (0.1, 0.5, 0.9)
    after = [one + more for one, more in zip(before, difference, strict=True)]
    judged(monkeypatch, before, after)
    cache, refinement = tmp_path / "cache", Refinement(rank_step=2)
    plan = replace(preparation_plan, propagated_shares=(0.5,), refinement=refinement, cache_dir=cache)
    found = run(plan)[1].propagation
    assert found is not None
    assert (found.loss_before, found.loss_after) == pytest.approx((0.5, sum(after) / 3))
    assert found.standard_error == pytest.approx(standard_error, abs=1e-3, nan_ok=True)
    assert found.kept == kept


@pytest.mark.parametrize(
    ("with_bias", "without", "kept"),
    [
        ([0.2, 0.2], [0.2, 0.2], False),
        ([0.3, 0.3], [0.2, 0.2], False),
        ([0.1, math.nan], [0.2, 0.2], False),
        ([0.1, 0.4], [0.2, 0.2], False),
        ([0.3, 0.05], [0.2, 0.2], True),  # of one size it may be told otherwise by chance
    ],
)
def test_bias_stays_where_the_right_answers_get_likelier_by_it_in_both_models_together(
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


def test_right_answers_have_no_say_where_only_the_divergence_counts(
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
def test_without_a_size_errors_are_propagated_around_the_smallest_model_within_the_drop(
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


def test_factors_of_a_model_that_cannot_be_run_block_by_block_stay_and_why_is_told(
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
def test_what_the_machine_lacks_for_a_block_is_no_models_fault(
    preparation_plan: PreparationPlan, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(blockwise, "_answering", fail)
    plan = replace(preparation_plan, propagated_shares=(0.45,), refinement=Refinement(rank_step=2))
    with pytest.raises(type(error), match=str(error)[:20]):
        run(plan)


def test_training_takes_the_first_examples_that_it_is_told_to(
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


def test_everything_that_shapes_refined_factors_is_in_their_key(
    preparation_plan: PreparationPlan, make_task: Callable[..., EncodedTask]
) -> None:
    refinement = Refinement(epochs=1, rank_step=4)
    base = replace(preparation_plan, refinement=refinement, method="weight")
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
