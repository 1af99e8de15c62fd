"""Every step that touches the model, on a tiny random model of each kind of architecture."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.modeling_outputs import CausalLMOutput

from ranksieve.search.errors import InputError
from ranksieve.search.space.matrix import DENSE, MatrixShape
from ranksieve.workers.export.reader import load_folder
from ranksieve.workers.export.writer import Exported, ExportPlan, export
from ranksieve.workers.factors import preparation
from ranksieve.workers.factors.calibration import Calibrator
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
from ranksieve.workers.types.plan import EncodedTask, Example, ModelSource

CPU = torch.device("cpu")
IDS_BL = torch.tensor([[4, 9, 30, 12, 7], [20, 3, 5, 41, 17]])
LAYERS, HIDDEN, INNER, VOCABULARY = 2, 32, 48, 48
KEYS = 16
"""Output width of the keys and of the values: two of four heads."""

Shapes = dict[str, tuple[int, int]]

GROUPED: Shapes = {
    "self_attn.q_proj": (HIDDEN, HIDDEN),
    "self_attn.k_proj": (KEYS, HIDDEN),
    "self_attn.v_proj": (KEYS, HIDDEN),
    "self_attn.o_proj": (HIDDEN, HIDDEN),
}
GATED: Shapes = {
    "mlp.gate_proj": (INNER, HIDDEN),
    "mlp.up_proj": (INNER, HIDDEN),
    "mlp.down_proj": (HIDDEN, INNER),
}


ROUTER = 4 * HIDDEN
"""Weights of a block's router to four experts."""


def experts(inner: int, *, gated: bool = True) -> Shapes:
    """Four of them."""
    first = {"gate_up": (2 * inner, HIDDEN)} if gated else {"up": (inner, HIDDEN)}
    shapes = {**first, "down": (HIDDEN, inner)}
    return {f"mlp.experts.{index}.{name}": shape for index in range(4) for name, shape in shapes.items()}


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """`shapes`: O×D of every kind of matrix in a block, or in the first one. `left_alone`: other weights of a block."""

    model_type: str
    shapes: Shapes
    second: Shapes | None = None
    options: dict[str, Any] = field(default_factory=dict)
    left_alone: int = 0
    biases: bool = False

    def config(self) -> PreTrainedConfig:
        common = {
            "hidden_size": HIDDEN,
            "intermediate_size": INNER,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": 4,
            "vocab_size": VOCABULARY,
            "max_position_embeddings": 64,
            "pad_token_id": None,
            "bos_token_id": 1,
            "eos_token_id": 2,
        }
        return AutoConfig.for_model(self.model_type, **{**common, **self.options})


CAPPED = ("gemma2",)
"""Their logits are not what the head returns."""

HEADS = {"num_key_value_heads": 2, "head_dim": 8}
CONV1D = {"n_embd": HIDDEN, "n_layer": LAYERS, "n_head": 4, "n_positions": 64}
LATENT = {"q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 4}
LINEAR_ATTENTION = {
    "layer_types": ["linear_attention", "full_attention"],
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
ROUTED = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}

ARCHITECTURES = [
    Architecture(model_type="llama", shapes=GROUPED | GATED, options={**HEADS, "tie_word_embeddings": True}),
    Architecture(model_type="mistral", shapes=GROUPED | GATED, options=HEADS),
    Architecture(model_type="qwen2", shapes=GROUPED | GATED, options=HEADS, biases=True),
    Architecture(model_type="qwen3", shapes=GROUPED | GATED, options=HEADS),
    Architecture(model_type="gemma", shapes=GROUPED | GATED, options=HEADS),
    Architecture(model_type="gemma2", shapes=GROUPED | GATED, options=HEADS),
    Architecture(model_type="gemma3_text", shapes=GROUPED | GATED, options=HEADS),
    Architecture(
        model_type="phi3",
        shapes={
            "self_attn.o_proj": (HIDDEN, HIDDEN),
            "self_attn.qkv_proj": (HIDDEN + 2 * KEYS, HIDDEN),
            "mlp.gate_up_proj": (2 * INNER, HIDDEN),
            "mlp.down_proj": (HIDDEN, INNER),
        },
        options=HEADS,
    ),
    Architecture(
        model_type="gpt2",
        shapes={
            "attn.c_attn": (3 * HIDDEN, HIDDEN),
            "attn.c_proj": (HIDDEN, HIDDEN),
            "mlp.c_fc": (4 * HIDDEN, HIDDEN),
            "mlp.c_proj": (HIDDEN, 4 * HIDDEN),
        },
        options=CONV1D,
        biases=True,
    ),
    Architecture(  # flattens batch and length before its feed-forward maps
        model_type="opt",
        shapes={
            "self_attn.k_proj": (HIDDEN, HIDDEN),
            "self_attn.v_proj": (HIDDEN, HIDDEN),
            "self_attn.q_proj": (HIDDEN, HIDDEN),
            "self_attn.out_proj": (HIDDEN, HIDDEN),
            "fc1": (INNER, HIDDEN),
            "fc2": (HIDDEN, INNER),
        },
        options={"ffn_dim": INNER, "word_embed_proj_dim": HIDDEN},
        biases=True,
    ),
    Architecture(
        model_type="gpt_neox",
        shapes={
            "attention.query_key_value": (3 * HIDDEN, HIDDEN),
            "attention.dense": (HIDDEN, HIDDEN),
            "mlp.dense_h_to_4h": (INNER, HIDDEN),
            "mlp.dense_4h_to_h": (HIDDEN, INNER),
        },
        biases=True,
    ),
    Architecture(  # a linear class of its own
        model_type="falcon",
        shapes={
            "self_attention.query_key_value": (HIDDEN + 2 * 8, HIDDEN),
            "self_attention.dense": (HIDDEN, HIDDEN),
            "mlp.dense_h_to_4h": (4 * HIDDEN, HIDDEN),
            "mlp.dense_4h_to_h": (HIDDEN, 4 * HIDDEN),
        },
    ),
    Architecture(  # scales its embeddings in place
        model_type="ctrl",
        shapes={
            "multi_head_attention.Wq": (HIDDEN, HIDDEN),
            "multi_head_attention.Wk": (HIDDEN, HIDDEN),
            "multi_head_attention.Wv": (HIDDEN, HIDDEN),
            "multi_head_attention.dense": (HIDDEN, HIDDEN),
            "ffn.0": (INNER, HIDDEN),
            "ffn.2": (HIDDEN, INNER),
        },
        options={**CONV1D, "dff": INNER},
        biases=True,
    ),
    *(
        Architecture(
            model_type=kind, shapes=GROUPED | experts(inner), options=HEADS | ROUTED, left_alone=ROUTER
        )
        for kind, inner in (
            ("mixtral", INNER),
            ("qwen3_moe", 16),
            ("olmoe", INNER),
            ("phimoe", INNER),  # its router is an nn.Linear that returns two tensors
        )
    ),
    Architecture(  # experts with biases, stored transposed, gate and up interleaved
        model_type="gpt_oss",
        shapes=GROUPED | experts(INNER),
        options=HEADS | ROUTED,
        left_alone=ROUTER,
        biases=True,
    ),
    Architecture(  # experts that are not gated; each block is either attention or a mixture
        model_type="nemotron_h",
        shapes={name.replace("self_attn", "mixer"): shape for name, shape in GROUPED.items()},
        second={name.replace("mlp", "mixer"): shape for name, shape in experts(16, gated=False).items()}
        | {"mixer.shared_experts.up_proj": (16, HIDDEN), "mixer.shared_experts.down_proj": (HIDDEN, 16)},
        options={
            **HEADS,
            **ROUTED,
            "layers_block_type": ["full_attention", "moe"],
            "n_routed_experts": 4,
            "moe_shared_expert_intermediate_size": 16,
        },
        left_alone=ROUTER // LAYERS,
    ),
    Architecture(  # shared experts, which see batch and length flattened, and a gate of one output
        model_type="qwen2_moe",
        shapes={
            **GROUPED,
            **experts(16),
            "mlp.shared_expert.gate_proj": (16, HIDDEN),
            "mlp.shared_expert.up_proj": (16, HIDDEN),
            "mlp.shared_expert.down_proj": (HIDDEN, 16),
            "mlp.shared_expert_gate": (1, HIDDEN),
        },
        options={**HEADS, **ROUTED, "shared_expert_intermediate_size": 16},
        left_alone=ROUTER,
        biases=True,
    ),
    Architecture(  # a router that asks for the type of its own weight
        model_type="hunyuan_v1_moe",
        shapes={**GROUPED, **experts(INNER), "mlp.gate.wg": (4, HIDDEN)}
        | {f"mlp.shared_mlp.{name.removeprefix('mlp.')}": shape for name, shape in GATED.items()},
        options={**HEADS, **ROUTED, "moe_topk": 2},
    ),
    Architecture(  # experts stacked in a way of its own, for which every token is weighted before it reaches them
        model_type="llama4_text",
        shapes=GROUPED
        | {name.replace("mlp", "feed_forward.shared_expert"): shape for name, shape in GATED.items()},
        options={**HEADS, **ROUTED, "interleave_moe_layer_step": 1},
        left_alone=ROUTER + 4 * 3 * INNER * HIDDEN,
    ),
    Architecture(  # experts stacked in a way of its own, in attention, too; routers that are a linear map
        model_type="jetmoe",
        shapes={
            "mlp.router.layer": (4, HIDDEN),
            "self_attention.experts.router.layer": (4, HIDDEN),
            "self_attention.kv_proj": (2 * KEYS, HIDDEN),
        },
        options={**ROUTED, "num_key_value_heads": 2, "kv_channels": 8},
        left_alone=4 * 3 * INNER * HIDDEN + 4 * 2 * KEYS * HIDDEN,
    ),
    Architecture(  # latent attention, and a router with a bias that is no parameter
        model_type="deepseek_v3",
        shapes={
            "self_attn.q_a_proj": (8, HIDDEN),
            "self_attn.q_b_proj": (32, 8),
            "self_attn.kv_a_proj_with_mqa": (12, HIDDEN),
            "self_attn.kv_b_proj": (32, 8),
            "self_attn.o_proj": (HIDDEN, 16),
            **GATED,
        },
        options={**LATENT, "num_key_value_heads": 4, "first_k_dense_replace": LAYERS},
    ),
    Architecture(  # a block of linear attention, and one of softmax attention with a gate beside its queries
        model_type="qwen3_5_text",
        shapes={
            "linear_attn.in_proj_qkv": (64, HIDDEN),
            "linear_attn.in_proj_z": (32, HIDDEN),
            "linear_attn.in_proj_b": (4, HIDDEN),
            "linear_attn.in_proj_a": (4, HIDDEN),
            "linear_attn.out_proj": (HIDDEN, 32),
            **GATED,
        },
        second=GROUPED | GATED | {"self_attn.q_proj": (2 * HIDDEN, HIDDEN)},
        options={**HEADS, **LINEAR_ATTENTION},
        left_alone=64 * 4 // LAYERS,  # the convolution of the first block
    ),
]


IN_DEPTH = ("llama", "gemma2", "gpt2", "qwen2_moe")
"""Tied embeddings, capped logits, transposed weights with biases, and a mixture with biases in its attention."""

EVERY = pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda one: one.model_type)
SOME_IN_DEPTH = pytest.mark.parametrize(
    "architecture",
    [
        pytest.param(one, id=one.model_type, marks=() if one.model_type in IN_DEPTH else pytest.mark.campaign)
        for one in ARCHITECTURES
    ],
)


def build(config: PreTrainedConfig, *, apart: bool = True) -> PreTrainedModel:
    """Weights wide enough for beliefs that differ between tokens, no bias of zero; experts taken apart, if wanted."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")  # type: ignore[no-untyped-call]
    model = randomized(model)
    if apart:
        take_apart(model, stacked_experts(model))
    return model.requires_grad_(False)


@torch.no_grad()
def randomized(model: Any) -> Any:
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        noise = 0.3 * torch.randn(parameter.shape, generator=generator)
        parameter.copy_(noise if parameter.dim() > 1 else parameter + noise)
    return model.eval().requires_grad_(False)


def gather(model: PreTrainedModel, task: EncodedTask, budget: int = 10_000) -> Grams:
    """Of examples with two answers: their gradients do not depend on a draw."""
    examples = [example for example in task.splits["calibration"] if example.choices == 2]
    with Calibrator(model, find_matrices(model), "task") as calibrator:
        for _ in calibrator.run(task.kind, examples, budget, 0):
            pass
    return calibrator.grams


def assert_close(got: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


@EVERY
def test_matrices_of_every_block(architecture: Architecture) -> None:
    model = build(architecture.config())
    matrices = find_matrices(model)
    for layer in range(LAYERS):
        shapes = {m.kind: (m.out_features, m.in_features) for m in matrices if m.layer == layer}
        expected = architecture.second if layer and architecture.second else architecture.shapes
        assert shapes == expected
    assert {matrix.layer for matrix in matrices} == set(range(LAYERS))
    modules: list[Any] = [model.get_submodule(matrix.name) for matrix in matrices]
    weights = {id(module.weight) for module in modules}
    assert id(model.get_input_embeddings().weight) not in weights
    assert id(model.get_output_embeddings().weight) not in weights
    assert any(module.bias is not None for module in modules) == architecture.biases
    prunable = sum(matrix.dense_params for matrix in matrices)
    assert linear_params(model) == prunable + LAYERS * architecture.left_alone
    assert find_matrices(empty_model(architecture.config())) == matrices


@SOME_IN_DEPTH
@torch.inference_mode()
def test_full_rank_is_dense_and_rank_zero_is_no_weight(
    architecture: Architecture, make_switchable: Callable[..., tuple[SwitchableModel, list[MatrixShape]]]
) -> None:
    model = build(architecture.config())
    expected = model(IDS_BL).logits
    candidate, matrices = make_switchable(build(architecture.config()))
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


@SOME_IN_DEPTH
def test_grams_whatever_the_padding(
    architecture: Architecture, make_task: Callable[..., EncodedTask]
) -> None:
    model, task = build(architecture.config()), make_task("choice")
    padded, alone = gather(model, task), gather(model, task, budget=1)
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


@SOME_IN_DEPTH
def test_gradients_of_short_rows_in_bfloat16(architecture: Architecture) -> None:
    models = []
    for _ in range(3):
        torch.manual_seed(0)
        models.append(randomized(AutoModelForCausalLM.from_config(architecture.config())))  # type: ignore[no-untyped-call]
    exact, usual, ours = models
    gradients = []
    for model in (exact, usual.bfloat16(), suit_gradients(ours.bfloat16())):
        model.requires_grad_()(IDS_BL).logits.float().logsumexp(dim=2).sum().backward()
        reached = [p.grad.flatten().float() for p in model.parameters() if p.grad is not None]
        gradients.append(torch.cat(reached))
    errors = [float((some - gradients[0]).norm() / gradients[0].norm()) for some in gradients[1:]]
    if not architecture.left_alone:  # rounding sends tokens to other experts
        assert errors[1] < 2 * errors[0]
    assert gradients[1].equal(gradients[2]) == (ours.config._attn_implementation != "ranksieve")


@SOME_IN_DEPTH
@torch.inference_mode()
def test_answers_go_on_from_prompts_that_were_read_once(
    architecture: Architecture,
    text_example: Callable[..., Example],
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    model = build(architecture.config())
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


@EVERY
@pytest.mark.usefixtures("_own_modules_cache")
@torch.inference_mode()
def test_export_is_the_searched_model(
    architecture: Architecture,
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
    dense = build(architecture.config(), apart=False)
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
    has_bias = (plan.factors_folder / ANSWER_BIAS).exists()
    assert has_bias == (architecture.model_type not in CAPPED)
    assert exported.added == (VOCABULARY if has_bias and dense.get_output_embeddings().bias is None else 0)
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
def test_experts_that_are_left_out_stay_stacked_and_run_as_before(
    tokenizer: PreTrainedTokenizerFast,
    preparation_plan: PreparationPlan,
    export_plan: ExportPlan,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """Whether or not this process has loaded the model before: transformers keeps the answer with the class."""
    mixtral = next(one for one in ARCHITECTURES if one.model_type == "mixtral").config()
    dense = build(mixtral, apart=False)
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


def test_experts_that_no_token_reached(make_task: Callable[..., EncodedTask]) -> None:
    options = {**HEADS, **ROUTED, "num_local_experts": 64, "num_experts_per_tok": 1}
    model = build(Architecture(model_type="mixtral", shapes={}, options=options).config())
    reached: set[str] = set()

    def note(layer: int) -> Callable[..., None]:
        def after_forward(_: nn.Module, __: Any, routes: tuple[torch.Tensor, ...]) -> None:
            reached.update(f"model.layers.{layer}.mlp.experts.{i}" for i in routes[2].flatten().tolist())

        return after_forward

    for layer in range(LAYERS):
        model.get_submodule(f"model.layers.{layer}.mlp.gate").register_forward_hook(note(layer))
    grams = gather(model, make_task("choice"))
    assert 1 < len(reached) < 64 * LAYERS
    for matrix in find_matrices(model):
        gram, gradients = grams.of(matrix.name)
        assert gram is not None
        expert = matrix.name.rpartition(".")[0]
        assert gram.any() == (expert in reached or "experts" not in expert)
        weight = weight_OD(model.get_submodule(matrix.name))  # type: ignore[arg-type]
        made = factor(weight, "task", KEYS, gram, gradients)
        assert torch.isfinite(made.left_RO).all()
        if not gram.any():
            assert not made.energy_K.any(), "nothing is lost where it is cut"


class OwnConfig(PreTrainedConfig):
    model_type = "own"


class OwnBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Linear(HIDDEN, INNER)
        self.narrow = nn.Linear(INNER, HIDDEN)
        self.experts = nn.ModuleList([nn.Linear(HIDDEN, HIDDEN) for _ in range(2)])

    def forward(self, x_BLD: torch.Tensor, routed: bool) -> torch.Tensor:
        x_BLD = x_BLD + self.narrow(self.wide(x_BLD).relu())
        if not routed:
            return x_BLD + x_BLD @ self.experts[0].weight.T + self.experts[1](x_BLD)
        first_BL = x_BLD[..., 0] > 0
        y_BLD = torch.empty_like(x_BLD)
        y_BLD[first_BL], y_BLD[~first_BL] = (
            self.experts[0](x_BLD[first_BL]),
            self.experts[1](x_BLD[~first_BL]),
        )
        return x_BLD + y_BLD


class OwnModel(PreTrainedModel):
    """An architecture that nothing here has heard of."""

    config_class = OwnConfig

    def __init__(self, config: OwnConfig, routed: bool = True) -> None:
        super().__init__(config)
        self.routed = routed
        self.tokens = nn.Embedding(VOCABULARY, HIDDEN)
        self.stack = nn.ModuleList([OwnBlock() for _ in range(3)])
        self.head = nn.Linear(HIDDEN, VOCABULARY)
        self.post_init()  # type: ignore[no-untyped-call]

    def get_input_embeddings(self) -> nn.Module:
        return self.tokens

    def forward(self, input_ids: torch.Tensor, use_cache: bool = False) -> CausalLMOutput:
        x_BLD = self.tokens(input_ids)
        for block in self.stack:
            x_BLD = block(x_BLD, self.routed)
        return CausalLMOutput(logits=self.head(x_BLD))


@pytest.fixture
def own_model() -> OwnModel:
    model: OwnModel = randomized(OwnModel(OwnConfig()))
    return model


KINDS = ["wide", "narrow", "experts.0", "experts.1"]


def test_unknown_architecture_works(own_model: OwnModel, make_task: Callable[..., EncodedTask]) -> None:
    assert [matrix.name for matrix in find_matrices(own_model)] == [
        f"stack.{layer}.{kind}" for layer in range(3) for kind in KINDS
    ]
    matrices = find_matrices(own_model, exclude=["experts.*"])
    task = make_task("choice")
    with Calibrator(own_model, matrices, "task") as calibrator:
        for _ in calibrator.run("choice", task.splits["calibration"], 64, 0):
            pass
    pairs = {}
    for matrix in matrices:
        weight = weight_OD(own_model.get_submodule(matrix.name))  # type: ignore[arg-type]
        factors = factor(weight, "task", HIDDEN, *calibrator.grams.of(matrix.name))
        pairs[matrix.name] = (factors.left_RO, factors.right_RD)
    expected = own_model(IDS_BL).logits
    SwitchableModel(own_model, matrices, pairs).switch([HIDDEN] * len(matrices))
    torch.testing.assert_close(own_model(IDS_BL).logits, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("routed", "message"),
    [
        (True, r"model\.include: stack\.0\.experts\.0 cannot be calibrated: it ran on .* in model\.exclude"),
        (False, r"stack\.0\.experts\.0 cannot be calibrated: it was not called"),
    ],
)
def test_matrix_that_not_every_token_passes_is_named(
    make_task: Callable[..., EncodedTask], routed: bool, message: str
) -> None:
    model = randomized(OwnModel(OwnConfig(), routed))
    with pytest.raises(InputError, match=message):
        gather(model, make_task("choice"))


def test_matrix_that_runs_without_gradients_is_named(
    own_model: OwnModel, make_task: Callable[..., EncodedTask]
) -> None:
    forward = own_model.stack[1].forward
    own_model.stack[1].forward = lambda x_BLD, routed: torch.no_grad()(forward)(x_BLD, routed)  # type: ignore[method-assign]
    task, matrices = make_task("choice"), find_matrices(own_model, exclude=["experts.*"])
    message = r"stack\.1\.wide cannot be calibrated: it runs without gradients; list it in model\.exclude"
    with pytest.raises(InputError, match=message), Calibrator(own_model, matrices, "task") as calibrator:
        list(calibrator.run("choice", task.splits["calibration"], 64, 0))


def test_matrix_that_no_gradient_reaches_is_named(
    own_model: OwnModel, make_task: Callable[..., EncodedTask]
) -> None:
    """As of a router that only tells which expert is taken."""
    block: Any = own_model.stack[1]
    block.forward = lambda x_BLD, routed: x_BLD + block.wide(x_BLD).argmax(dim=-1, keepdim=True)
    task, matrices = make_task("choice"), find_matrices(own_model, include=["stack.1.wide", "stack.2.wide"])
    message = r"stack\.1\.wide cannot be calibrated: it has no gradient of the loss"
    with pytest.raises(InputError, match=message), Calibrator(own_model, matrices, "task") as calibrator:
        list(calibrator.run("choice", task.splits["calibration"], 64, 0))


def test_architecture_without_linear_blocks_is_refused(own_model: OwnModel) -> None:
    own_model.stack = nn.ModuleList([nn.Conv1d(HIDDEN, HIDDEN, 1) for _ in range(3)])
    with pytest.raises(InputError, match=r"model: OwnModel has no transformer blocks with linear layers"):
        find_matrices(own_model)
