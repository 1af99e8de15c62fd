"""Every step that touches the model, on a tiny random model of each kind of architecture."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from ranksieve.search.space.matrix import DENSE, MatrixShape
from ranksieve.workers.export.reader import load_folder
from ranksieve.workers.export.writer import Exported, ExportPlan, export
from ranksieve.workers.factors import preparation
from ranksieve.workers.factors.decomposition import factor
from ranksieve.workers.factors.grams import Grams
from ranksieve.workers.factors.preparation import prepare
from ranksieve.workers.factors.prepared import (
    ANSWER_BIAS,
    PreparationPlan,
    Prepared,
    Propagation,
    with_factors,
)
from ranksieve.workers.factors.training import Refinement
from ranksieve.workers.forward.generation import answers
from ranksieve.workers.model.attention import suit_gradients
from ranksieve.workers.model.experts import stacked_experts, take_apart
from ranksieve.workers.model.loading import load_prepared
from ranksieve.workers.model.matrices import find_matrices, linear_params, weight_OD
from ranksieve.workers.model.sources import empty_model
from ranksieve.workers.model.switchable import SwitchableModel
from ranksieve.workers.types.plan import Example, ModelSource

CPU = torch.device("cpu")
IDS_BL = torch.tensor([[4, 9, 30, 12, 7], [20, 3, 5, 41, 17]])
LAYERS = 2


def assert_close(got: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


def test_matrices_of_every_block(architecture: Any) -> None:
    model = architecture.build()
    matrices = find_matrices(model)
    assert {matrix.layer for matrix in matrices} == set(range(LAYERS))
    modules: list[Any] = [model.get_submodule(matrix.name) for matrix in matrices]
    weights = {id(module.weight) for module in modules}
    assert id(model.get_input_embeddings().weight) not in weights
    assert id(model.get_output_embeddings().weight) not in weights
    assert any(module.bias is not None for module in modules) == architecture.biases
    prunable = sum(matrix.dense_params for matrix in matrices)
    assert linear_params(model) == prunable + LAYERS * architecture.left_alone
    assert find_matrices(empty_model(architecture.config())) == matrices


@torch.inference_mode()
def test_full_rank_and_rank_zero(
    representative: Any, make_switchable: Callable[..., tuple[SwitchableModel, list[MatrixShape]]]
) -> None:
    model = representative.build()
    expected = model(IDS_BL).logits
    candidate, matrices = make_switchable(representative.build())
    assert candidate.model(IDS_BL).logits.equal(expected)
    candidate.switch([min(matrix.out_features, matrix.in_features) for matrix in matrices])
    assert_close(candidate.model(IDS_BL).logits, expected)
    candidate.switch([0] * len(matrices))
    for matrix in matrices:
        model.get_submodule(matrix.name).weight.zero_()  # type: ignore[operator, union-attr]
    assert (model(IDS_BL).logits - expected).abs().max() > 0.1
    assert_close(candidate.model(IDS_BL).logits, model(IDS_BL).logits)
    candidate.switch([DENSE] * len(matrices))
    assert candidate.model(IDS_BL).logits.equal(expected)


def test_grams_whatever_the_padding(representative: Any, gather: Callable[..., Grams]) -> None:
    model = representative.build()
    padded, alone = gather(model), gather(model, budget=1)
    assert padded.tokens == alone.tokens
    for matrix in find_matrices(model):
        grams = padded.of(matrix.name)
        for gram, expected in zip(grams, alone.of(matrix.name), strict=True):
            assert gram is not None
            assert expected is not None
            assert gram.any()
            torch.testing.assert_close(gram, expected, rtol=1e-3, atol=1e-5 * float(expected.abs().max()))
        rank = min(matrix.out_features, matrix.in_features)
        factors = factor(weight_OD(model.get_submodule(matrix.name)), "task", rank, *grams)  # type: ignore[arg-type]
        assert torch.isfinite(factors.energy_K).all()
        assert factors.energy_K[0] > 0
        product_OD = factors.left_RO.T @ factors.right_RD
        expected_OD = weight_OD(model.get_submodule(matrix.name)).double()  # type: ignore[arg-type]
        torch.testing.assert_close(product_OD, expected_OD, rtol=1e-4, atol=1e-4)


def test_gradients_of_short_rows_in_bfloat16(representative: Any, randomized: Callable[[Any], Any]) -> None:
    models = []
    for _ in range(3):
        torch.manual_seed(0)
        models.append(randomized(AutoModelForCausalLM.from_config(representative.config())))  # type: ignore[no-untyped-call]
    exact, usual, ours = models
    gradients = []
    for model in (exact, usual.bfloat16(), suit_gradients(ours.bfloat16())):
        model.requires_grad_()(IDS_BL).logits.float().logsumexp(dim=2).sum().backward()
        reached = [p.grad.flatten().float() for p in model.parameters() if p.grad is not None]
        gradients.append(torch.cat(reached))
    errors = [float((some - gradients[0]).norm() / gradients[0].norm()) for some in gradients[1:]]
    if not representative.left_alone:  # rounding sends tokens to other experts
        assert errors[1] < 2 * errors[0]
    assert gradients[1].equal(gradients[2]) == (ours.config._attn_implementation != "ranksieve")


@torch.inference_mode()
def test_answers_continue_prompts_read_once(
    representative: Any,
    text_example: Callable[..., Example],
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    model = representative.build()
    right = [(4, 9, 30), (20,), (3, 5), (12, 40, 6, 8)]
    examples = [text_example(tuple(range(5 + index, 8 + 4 * index)), ids) for index, ids in enumerate(right)]
    (together,) = answers(model, tokenizer, examples, 1, 10_000, new_tokens=3)
    assert together.examples == (0, 1, 2, 3), "by length, with up to twelve tokens of padding"
    expected, texts = [], []
    for example, ids in zip(examples, right, strict=True):
        whole = torch.tensor([[*example.prompt_ids, *ids[:-1]]])
        expected.append(model(whole).logits[0, -len(ids) :])
        prompt = torch.tensor([example.prompt_ids])
        written = model.generate(prompt, max_new_tokens=3, do_sample=False, use_cache=False, pad_token_id=0)  # type: ignore[operator]
        texts.append(tokenizer.decode(written[0, prompt.shape[1] :], skip_special_tokens=True))
    assert_close(together.logits_NV, torch.cat(expected))
    assert together.token_N.tolist() == [token for ids in right for token in ids]
    assert together.texts == tuple(texts)


@pytest.mark.usefixtures("_own_modules_cache")
@torch.inference_mode()
def test_export_is_the_searched_model(
    architecture: Any,
    tokenizer: PreTrainedTokenizerFast,
    preparation_plan: PreparationPlan,
    export_plan: ExportPlan,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """With a bias of the head, where its logits are what the model returns."""
    monkeypatch.setattr(Propagation, "kept", True)
    monkeypatch.setattr(
        preparation, "example_losses", lambda model, *_: torch.tensor([float(model.answer_bias is None)])
    )
    dense = architecture.build(apart=False)
    dense.save_pretrained(tmp_path / "dense")
    take_apart(dense, stacked_experts(dense))
    tokenizer.save_pretrained(tmp_path / "dense")
    plan, prepared = planned(tmp_path / "dense", preparation_plan, export_plan)
    *_, exported = export(plan)
    assert isinstance(exported, Exported)

    searched = load_prepared(plan.model_folder, CPU, matrices=plan.matrices)
    with_factors(searched, plan.matrices, plan.factors_folder).switch(plan.ranks)
    expected = searched(IDS_BL).logits
    assert (expected - dense(IDS_BL).logits).abs().max() > 0.1
    stranger = AutoModelForCausalLM.from_pretrained(plan.folder, trust_remote_code=True, dtype="auto").eval()
    for loaded in (load_folder(plan.folder), stranger):
        assert_close(loaded(IDS_BL).logits, expected)
        tied = loaded.get_output_embeddings().weight is loaded.get_input_embeddings().weight
        assert tied == architecture.config().tie_word_embeddings
        assert biases(loaded, plan) == biases(dense, plan)

    prices = [matrix.price(rank) for matrix, rank in zip(plan.matrices, plan.ranks, strict=True)]
    written = sum(prices) - sum(exported.dead.values())
    assert exported.block_params == written + LAYERS * architecture.left_alone
    assert exported.total_params == stranger.num_parameters()
    told = (plan.factors_folder / ANSWER_BIAS).exists()
    assert told == (not architecture.capped)
    assert exported.added == (48 if told and dense.get_output_embeddings().bias is None else 0)
    saved = prepared.block_params - exported.block_params
    assert prepared.total_params - exported.total_params == saved - exported.added


def planned(
    folder: Path, preparation_plan: PreparationPlan, export_plan: ExportPlan, exclude: tuple[str, ...] = ()
) -> tuple[ExportPlan, Prepared]:
    """A dense matrix, one of rank 0, low-rank ones."""
    source = ModelSource(kind="path", location=str(folder), dtype="float32", exclude=exclude)
    plan = replace(
        preparation_plan,
        model=source,
        cache_dir=folder.with_name("cache"),
        propagated_shares=(0.5,),
        refinement=Refinement(rank_step=2),
    )
    with torch.inference_mode(False):
        *_, prepared = prepare(plan)
    assert isinstance(prepared, Prepared)
    ranks = [
        min(2 + index % 4, max(1, matrix.largest_rank)) for index, matrix in enumerate(prepared.matrices)
    ]
    ranks[0], ranks[-1] = DENSE, 0
    made = replace(
        export_plan,
        model_folder=prepared.model.folder,
        factors_folder=prepared.factors,
        matrices=prepared.matrices,
        ranks=tuple(ranks),
    )
    return made, prepared


def biases(model: PreTrainedModel, plan: ExportPlan) -> dict[str, list[float]]:
    """Of every matrix that has one, wherever its module keeps it."""
    return {
        matrix.name: parameter.tolist()
        for matrix in plan.matrices
        for name, parameter in model.get_submodule(matrix.name).named_parameters()
        if name.endswith("bias")
    }


@pytest.mark.usefixtures("_own_modules_cache")
def test_excluded_experts_stay_stacked(
    mixtral: Any,
    tokenizer: PreTrainedTokenizerFast,
    preparation_plan: PreparationPlan,
    export_plan: ExportPlan,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """Whether or not this process has loaded the model before: transformers keeps the answer with the class."""
    dense = mixtral.build(apart=False)
    dense.save_pretrained(tmp_path / "dense")
    tokenizer.save_pretrained(tmp_path / "dense")
    plan, _ = planned(tmp_path / "dense", preparation_plan, export_plan, exclude=("*.experts.*",))
    assert not any(".experts." in matrix.name for matrix in plan.matrices)
    *_, exported = export(plan)
    assert isinstance(exported, Exported)
    assert "class Experts" not in (plan.folder / "modeling_ranksieve.py").read_text()
    expected = load_prepared(plan.model_folder, CPU).config._experts_implementation
    assert expected == "grouped_mm"
    for load in (load_folder, partial(AutoModelForCausalLM.from_pretrained, trust_remote_code=True)):
        monkeypatch.delattr(type(dense), "_can_set_experts_implementation_cached_value", raising=False)
        loaded = load(plan.folder)
        assert len(stacked_experts(loaded)) == LAYERS
        assert loaded.config._experts_implementation == expected


def test_experts_that_no_token_reached(mixtral: Any, gather: Callable[..., Grams]) -> None:
    options = mixtral.options | {"num_local_experts": 64, "num_experts_per_tok": 1}
    model = replace(mixtral, options=options).build()
    reached: set[str] = set()

    def note(layer: int) -> Callable[..., None]:
        def after_forward(_: nn.Module, __: Any, routes: tuple[torch.Tensor, ...]) -> None:
            reached.update(f"model.layers.{layer}.mlp.experts.{i}" for i in routes[2].flatten().tolist())

        return after_forward

    for layer in range(LAYERS):
        model.get_submodule(f"model.layers.{layer}.mlp.gate").register_forward_hook(note(layer))
    grams = gather(model)
    assert 1 < len(reached) < 64 * LAYERS
    for matrix in find_matrices(model):
        gram, gradients = grams.of(matrix.name)
        assert gram is not None
        expert = matrix.name.rpartition(".")[0]
        assert gram.any() == (expert in reached or "experts" not in expert)
        weight = weight_OD(model.get_submodule(matrix.name))  # type: ignore[arg-type]
        made = factor(weight, "task", 16, gram, gradients)
        assert torch.isfinite(made.left_RO).all()
        if not gram.any():
            assert not made.energy_K.any(), "nothing is lost where it is cut"
