"""Every step that touches the model, on a tiny random model of each kind of architecture."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from ranksieve.search.errors import InputError
from ranksieve.search.space.matrix import DENSE, MatrixShape
from ranksieve.workers.export.dense import multiply_out
from ranksieve.workers.export.reader import load_folder
from ranksieve.workers.export.writer import Exported, ExportPlan, export
from ranksieve.workers.factors.decomposition import factor
from ranksieve.workers.factors.grams import Grams
from ranksieve.workers.factors.preparation import prepare
from ranksieve.workers.factors.prepared import PreparationPlan, Prepared, with_factors
from ranksieve.workers.forward.generation import answers
from ranksieve.workers.model.experts import stacked_experts, take_apart
from ranksieve.workers.model.loading import load_prepared
from ranksieve.workers.model.matrices import find_matrices, linear_params, weight_OD
from ranksieve.workers.model.rounding import check_rounding
from ranksieve.workers.model.sources import empty_model
from ranksieve.workers.model.switchable import SwitchableModel
from ranksieve.workers.scoring.rounded import with_rounded_factors
from ranksieve.workers.types.plan import Example, ModelSource

CPU = torch.device("cpu")
IDS_BL = torch.tensor([[4, 9, 30, 12, 7], [20, 3, 5, 41, 17]])
LAYERS, HIDDEN, INNER = 2, 32, 48
KEYS = 16
"""Output width of the keys and of the values: two of four heads."""

ROUTER = 4 * HIDDEN
"""Weights of a block's router to four experts."""


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A model type at a tiny size.

    `left_alone`: weights of a block outside the prunable matrices. `biases`: some matrices have one.
    """

    model_type: str
    options: dict[str, Any] = field(default_factory=dict)
    left_alone: int = 0
    biases: bool = False

    def config(self) -> PreTrainedConfig:
        common = {
            "hidden_size": HIDDEN,
            "intermediate_size": INNER,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": 4,
            "vocab_size": 48,
            "max_position_embeddings": 64,
            "pad_token_id": None,
            "bos_token_id": 1,
            "eos_token_id": 2,
        }
        return AutoConfig.for_model(self.model_type, **{**common, **self.options})

    def build(self, *, apart: bool = True) -> PreTrainedModel:
        """Return a randomized model, its experts taken apart unless that is not wanted."""
        torch.manual_seed(0)
        config = self.config()
        model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")  # type: ignore[no-untyped-call]
        model = randomized(model)
        if apart:
            take_apart(model, stacked_experts(model))
        return model.requires_grad_(False)


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
    Architecture(model_type="llama", options={**HEADS, "tie_word_embeddings": True}),
    Architecture(model_type="mistral", options=HEADS),
    Architecture(model_type="qwen2", options=HEADS, biases=True),
    Architecture(model_type="qwen3", options=HEADS),
    Architecture(model_type="gemma", options=HEADS),
    Architecture(model_type="gemma2", options=HEADS),
    Architecture(model_type="gemma3_text", options=HEADS),
    Architecture(model_type="phi3", options=HEADS),
    Architecture(model_type="gpt2", options=CONV1D, biases=True),
    Architecture(  # flattens batch and length before its feed-forward maps
        model_type="opt", options={"ffn_dim": INNER, "word_embed_proj_dim": HIDDEN}, biases=True
    ),
    Architecture(model_type="gpt_neox", biases=True),
    Architecture(model_type="falcon"),  # a linear class of its own
    Architecture(
        model_type="ctrl", options={**CONV1D, "dff": INNER}, biases=True
    ),  # scales embeddings in place
    Architecture(model_type="mixtral", options=HEADS | ROUTED, left_alone=ROUTER),
    Architecture(model_type="qwen3_moe", options=HEADS | ROUTED, left_alone=ROUTER),
    Architecture(model_type="olmoe", options=HEADS | ROUTED, left_alone=ROUTER),
    Architecture(  # its router is an nn.Linear that returns two tensors
        model_type="phimoe", options=HEADS | ROUTED, left_alone=ROUTER
    ),
    Architecture(  # experts with biases, stored transposed, gate and up interleaved
        model_type="gpt_oss", options=HEADS | ROUTED, left_alone=ROUTER, biases=True
    ),
    Architecture(  # experts that are not gated; each block is either attention or a mixture
        model_type="nemotron_h",
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
        options={**HEADS, **ROUTED, "shared_expert_intermediate_size": 16},
        left_alone=ROUTER,
        biases=True,
    ),
    Architecture(  # a router that asks for the type of its own weight
        model_type="hunyuan_v1_moe", options={**HEADS, **ROUTED, "moe_topk": 2}
    ),
    Architecture(  # experts stacked in a way of its own, for which every token is weighted before it reaches them
        model_type="llama4_text",
        options={**HEADS, **ROUTED, "interleave_moe_layer_step": 1},
        left_alone=ROUTER + 4 * 3 * INNER * HIDDEN,
    ),
    Architecture(  # experts stacked in a way of its own, in attention, too; routers that are a linear map
        model_type="jetmoe",
        options={**ROUTED, "num_key_value_heads": 2, "kv_channels": 8},
        left_alone=4 * 3 * INNER * HIDDEN + 4 * 2 * KEYS * HIDDEN,
    ),
    Architecture(  # latent attention
        model_type="deepseek_v3",
        options={**LATENT, "num_key_value_heads": 4, "first_k_dense_replace": LAYERS},
    ),
    Architecture(  # a block of linear attention, and one of softmax attention with a gate beside its queries
        model_type="qwen3_5_text",
        options={**HEADS, **LINEAR_ATTENTION},
        left_alone=64 * 4 // LAYERS,  # the convolution of the first block
    ),
]

IN_DEPTH = ("llama", "gemma2", "gpt2", "qwen2_moe")
"""Tied embeddings; capped logits; transposed, fused weights with biases; a mixture with biases in its attention."""


@torch.no_grad()
def randomized(model: Any) -> Any:
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        noise = 0.3 * torch.randn(parameter.shape, generator=generator)
        parameter.copy_(noise if parameter.dim() > 1 else parameter + noise)
    return model.eval().requires_grad_(False)


@pytest.fixture(params=ARCHITECTURES, ids=lambda one: one.model_type)
def architecture(request: pytest.FixtureRequest) -> Architecture:
    """Every architecture, one after the other."""
    one: Architecture = request.param
    return one


@pytest.fixture(params=IN_DEPTH)
def representative(request: pytest.FixtureRequest) -> Architecture:
    """Each architecture that is tested in depth."""
    return next(one for one in ARCHITECTURES if one.model_type == request.param)


@pytest.fixture(scope="session")
def mixtral() -> Architecture:
    """A mixture of experts."""
    return next(one for one in ARCHITECTURES if one.model_type == "mixtral")


def assert_close(got: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


def test_matrices_of_every_block(architecture: Architecture) -> None:
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
    representative: Architecture, make_switchable: Callable[..., tuple[SwitchableModel, list[MatrixShape]]]
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


def test_grams_whatever_the_padding(representative: Architecture, gather: Callable[..., Grams]) -> None:
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
        factors = factor(weight_OD(model.get_submodule(matrix.name)), rank, *grams)  # type: ignore[arg-type]
        assert torch.isfinite(factors.energy_K).all()
        assert factors.energy_K[0] > 0
        product_OD = factors.left_RO.T @ factors.right_RD
        expected_OD = weight_OD(model.get_submodule(matrix.name)).double()  # type: ignore[arg-type]
        torch.testing.assert_close(product_OD, expected_OD, rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_answers_continue_prompts_read_once(
    representative: Architecture,
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
    architecture: Architecture,
    tokenizer: PreTrainedTokenizerFast,
    preparation_plan: PreparationPlan,
    export_plan: ExportPlan,
    tmp_path: Path,
) -> None:
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

    if "AutoModel" in stranger.config.auto_map:
        base = AutoModel.from_pretrained(plan.folder, trust_remote_code=True, dtype="auto").eval()
        assert_close(base(IDS_BL).last_hidden_state, stranger.base_model(IDS_BL).last_hidden_state)
    else:
        assert architecture.model_type == "llama4_text"  # its base model and its head disagree on names

    prices = [matrix.price(rank) for matrix, rank in zip(plan.matrices, plan.ranks, strict=True)]
    written = sum(prices) - sum(exported.dead.values())
    assert exported.block_params == written + LAYERS * architecture.left_alone
    assert exported.total_params == stranger.num_parameters()
    saved = prepared.block_params - exported.block_params
    assert prepared.total_params - exported.total_params == saved

    multiply_out(plan.folder, tmp_path / "multiplied")
    stock = AutoModelForCausalLM.from_pretrained(tmp_path / "multiplied").eval()
    assert type(stock) is type(dense)
    assert_close(stock(IDS_BL).logits, load_folder(plan.folder)(IDS_BL).logits)


@pytest.mark.usefixtures("_own_modules_cache")
@torch.inference_mode()
def test_an_export_of_4_bits_is_the_model_that_is_scored(
    architecture: Architecture,
    tokenizer: PreTrainedTokenizerFast,
    preparation_plan: PreparationPlan,
    export_plan: ExportPlan,
    tmp_path: Path,
) -> None:
    architecture.build(apart=False).save_pretrained(tmp_path / "dense")
    tokenizer.save_pretrained(tmp_path / "dense")
    if architecture.model_type == "llama4_text":
        with pytest.raises(InputError, match="other modules than Llama4TextExperts"):
            check_rounding(empty_model(architecture.config()))
        return
    plan, _ = planned(tmp_path / "dense", preparation_plan, export_plan)
    ranks = [16 if matrix.largest_rank >= 16 else DENSE for matrix in plan.matrices]
    plan = replace(plan, ranks=(*ranks[:-1], 0), bits=4)
    list(export(plan))

    scored = load_prepared(plan.model_folder, CPU, matrices=plan.matrices)
    with_rounded_factors(scored, plan.matrices, plan.factors_folder, 4).switch(plan.ranks)
    stranger = AutoModelForCausalLM.from_pretrained(plan.folder, trust_remote_code=True, dtype="auto").eval()
    assert_close(stranger(IDS_BL).logits, scored(IDS_BL).logits)
    dense = load_prepared(plan.model_folder, CPU)
    for weights in (one.get_input_embeddings().weight for one in (stranger, scored)):
        assert not torch.equal(weights, dense.get_input_embeddings().weight)
    assert torch.equal(*(one.get_output_embeddings().weight for one in (stranger, scored)))


def planned(
    folder: Path, preparation_plan: PreparationPlan, export_plan: ExportPlan, exclude: tuple[str, ...] = ()
) -> tuple[ExportPlan, Prepared]:
    """A dense matrix, one of rank 0, low-rank ones."""
    source = ModelSource(kind="path", location=str(folder), dtype="float32", exclude=exclude)
    plan = replace(
        preparation_plan,
        model=source,
        cache_dir=folder.with_name("cache"),
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
    mixtral: Architecture,
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
