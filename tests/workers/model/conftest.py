"""Architectures of transformers at a tiny size, with random weights."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from ranksieve.search.space.matrix import MatrixShape
from ranksieve.workers.factors.calibration import Calibrator
from ranksieve.workers.factors.grams import Grams
from ranksieve.workers.model.experts import stacked_experts, take_apart
from ranksieve.workers.model.matrices import find_matrices
from ranksieve.workers.types.plan import EncodedTask

LAYERS, HIDDEN, INNER = 2, 32, 48
KEYS = 16
"""Output width of the keys and of the values: two of four heads."""

ROUTER = 4 * HIDDEN
"""Weights of a block's router to four experts."""


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A model type at a tiny size.

    `left_alone`: weights of a block outside the prunable matrices. `biases`: some matrices have one. `capped`: the
    logits are not what the head returns.
    """

    model_type: str
    options: dict[str, Any] = field(default_factory=dict)
    left_alone: int = 0
    biases: bool = False
    capped: bool = False

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
        model = _randomized(model)
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
    Architecture(model_type="gemma2", options=HEADS, capped=True),
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


@pytest.fixture(scope="session")
def randomized() -> Callable[[Any], Any]:
    """Fills a model with random weights, wide enough for beliefs that differ between tokens, and biases."""
    return _randomized


@pytest.fixture
def gather(make_task: Callable[..., EncodedTask]) -> Callable[..., Grams]:
    """Calibrates on examples with two answers, whose gradients do not depend on a draw."""
    examples = [example for example in make_task("choice").splits["calibration"] if example.choices == 2]

    def run(
        model: PreTrainedModel, matrices: tuple[MatrixShape, ...] | None = None, budget: int = 10_000
    ) -> Grams:
        with Calibrator(model, matrices or find_matrices(model), "task") as calibrator:
            for _ in calibrator.run("choice", examples, budget, 0):
                pass
        return calibrator.grams

    return run


@torch.no_grad()
def _randomized(model: Any) -> Any:
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        noise = 0.3 * torch.randn(parameter.shape, generator=generator)
        parameter.copy_(noise if parameter.dim() > 1 else parameter + noise)
    return model.eval().requires_grad_(False)
