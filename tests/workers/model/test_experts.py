from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.muse_spark.configuration_muse_spark import MuseSparkTextConfig
from transformers.models.muse_spark.modeling_muse_spark import MuseSparkExperts

from ranksieve.workers.factors.decomposition import factor
from ranksieve.workers.factors.grams import Grams
from ranksieve.workers.model.experts import Experts, expert_of, stacked_experts, take_apart
from ranksieve.workers.model.matrices import find_matrices, weight_OD

IDS_BL = torch.arange(3, 23)[None]
SIZES = {
    "hidden_size": 32, "intermediate_size": 48, "moe_intermediate_size": 16, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "vocab_size": 64, "pad_token_id": None,
    "num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4, "num_experts_per_tok": 2,
    "mlp_layer_types": ["sparse", "sparse"],
}  # fmt: skip


def build(kind: str, **options: int) -> Any:
    """With experts in transformers' own, slow way, which tells exactly what they are."""
    config = AutoConfig.for_model(kind, **{**SIZES, **options})
    config._experts_implementation = "eager"
    model = AutoModelForCausalLM.from_config(config).eval()  # type: ignore[no-untyped-call]
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data = 0.2 * torch.randn(parameter.shape, generator=generator)
    return model


@pytest.mark.parametrize(
    "kind",
    [
        "mixtral",  # gate and up in one matrix
        "nemotron_h",  # nothing gated
        "gpt_oss",  # biases, weights transposed, gate and up interleaved, limits of its own
        "minimax_m3_vl_text",  # a gate of its own
        "hy_v4",  # a gate that is cut off at both ends
        "jamba",  # in some of its blocks
    ],
)
@torch.no_grad()
def test_experts_taken_apart_are_the_stacked_ones(kind: str) -> None:
    model = build(kind)
    expected, numbers = model(IDS_BL, use_cache=False).logits, sum(p.numel() for p in model.parameters())
    names = stacked_experts(model)
    assert names
    take_apart(model, names)
    assert not stacked_experts(model)
    torch.testing.assert_close(model(IDS_BL, use_cache=False).logits, expected, rtol=1e-5, atol=1e-5)
    assert sum(p.numel() for p in model.parameters()) == numbers
    expert_names = [
        n for n, module in model.named_modules() if isinstance(module, nn.Linear) and expert_of(model, n)
    ]
    assert len(expert_names) == 2 * 4 * len(names)
    for name in expert_names:
        expert: Any = expert_of(model, name)
        assert tuple(one for one, _ in expert.named_children()) == expert.maps
        assert expert.maps[-1] == "down"
    copy = deepcopy(model)
    for module in model.modules():
        if isinstance(module, Experts):
            module._stacked_class = None  # a copy does not lean on what it was made of
    torch.testing.assert_close(copy(IDS_BL, use_cache=False).logits, expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_a_norm_behind_each_expert() -> None:
    config: Any = MuseSparkTextConfig(num_local_experts=4, moe_hidden_size=32, moe_intermediate_size=16)
    config._experts_implementation = "eager"
    stacked = MuseSparkExperts(config).eval()
    for parameter in stacked.parameters():
        parameter.copy_(torch.randn(parameter.shape))
    apart = Experts(stacked)
    assert not any(module.training for module in apart.modules())
    inputs = (torch.randn(5, 32), torch.tensor([[0, 2]] * 4 + [[2, 1]]), torch.rand(5, 2))
    expected = stacked(*inputs)
    torch.testing.assert_close(apart(*inputs), expected)
    apart.post_expert_norm = nn.Identity()
    assert (apart(*inputs) - expected).abs().max() > 0.1


def test_tokens_of_an_expert_and_of_one_that_gets_none() -> None:
    model = build("mixtral")
    take_apart(model, stacked_experts(model))
    experts: Any = model.get_submodule("model.layers.0.mlp.experts")
    x_ND, weights_Nk = torch.randn(3, 32), torch.tensor([[0.7, 0.3]] * 3)
    chosen_Nk = torch.tensor([[2, 0], [0, 4], [2, 4]])  # 4 is none, as where experts are on several devices
    y_ND = experts(x_ND, chosen_Nk, weights_Nk)
    assert [expert_of(model, f"model.layers.0.mlp.experts.{i}.down").tokens_P.tolist() for i in range(4)] == [  # type: ignore[union-attr]
        [0, 1],
        [],
        [0, 2],
        [],
    ]
    expected_D = 0.3 * experts.get_submodule("0")(x_ND[:1]) + 0.7 * experts.get_submodule("2")(x_ND[:1])
    torch.testing.assert_close(y_ND[:1], expected_D)
    torch.testing.assert_close(y_ND[2:], 0.7 * experts.get_submodule("2")(x_ND[2:]))
    assert expert_of(model, "model.layers.0.self_attn.q_proj") is None


def test_experts_that_no_token_reached(gather: Callable[..., Grams]) -> None:
    model = build("mixtral", num_local_experts=64, num_experts_per_tok=1).requires_grad_(False)
    take_apart(model, stacked_experts(model))
    reached: set[str] = set()

    def note(layer: int) -> Callable[..., None]:
        def after_forward(_: nn.Module, __: Any, routes: tuple[torch.Tensor, ...]) -> None:
            reached.update(f"model.layers.{layer}.mlp.experts.{i}" for i in routes[2].flatten().tolist())

        return after_forward

    for layer in range(2):
        model.get_submodule(f"model.layers.{layer}.mlp.gate").register_forward_hook(note(layer))
    grams = gather(model)
    assert 1 < len(reached) < 2 * 64
    for matrix in find_matrices(model):
        gram, gradients = grams.of(matrix.name)
        assert gram is not None
        expert = matrix.name.rpartition(".")[0]
        assert gram.any() == (expert in reached or "experts" not in expert)
        weight = weight_OD(model.get_submodule(matrix.name))  # type: ignore[arg-type]
        made = factor(weight, 16, gram, gradients)
        assert torch.isfinite(made.left_RO).all()
        if not gram.any():
            assert not made.energy_K.any(), "nothing is lost where it is cut"
