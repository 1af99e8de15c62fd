from collections.abc import Callable, Sequence

import pytest
import torch
from torch import nn
from transformers import GPT2LMHeadModel, LlamaForCausalLM

from ranksieve.search.errors import InputError
from ranksieve.search.space.matrix import MatrixShape
from ranksieve.workers.model.matrices import block_list, find_matrices, linear_params, weight_OD

SHAPES = {
    "self_attn.q_proj": (32, 32),
    "self_attn.k_proj": (16, 32),
    "self_attn.v_proj": (16, 32),
    "self_attn.o_proj": (32, 32),
    "mlp.gate_proj": (48, 32),
    "mlp.up_proj": (48, 32),
    "mlp.down_proj": (32, 48),
}


def test_every_linear_of_every_block_in_model_order(make_llama: Callable[..., LlamaForCausalLM]) -> None:
    expected = [
        MatrixShape(
            name=f"model.layers.{layer}.{kind}",
            out_features=out_features,
            in_features=in_features,
            layer=layer,
            kind=kind,
        )
        for layer in range(2)
        for kind, (out_features, in_features) in SHAPES.items()
    ]
    assert list(find_matrices(make_llama())) == expected


def test_conv1d_is_read_as_out_by_in(make_gpt2: Callable[[], GPT2LMHeadModel]) -> None:
    module = make_gpt2().transformer.h[0].mlp.c_fc
    assert weight_OD(module).data_ptr() == module.weight.data_ptr()
    torch.testing.assert_close(weight_OD(module), module.weight.T)


@pytest.mark.parametrize(
    ("include", "exclude", "kinds"),
    [
        (["q_proj"], [], ["self_attn.q_proj"]),
        (["mlp.*"], ["up_proj"], ["mlp.gate_proj", "mlp.down_proj"]),
        (["*"], ["self_attn.*", "mlp.*_proj"], []),
        (["layers.1.mlp.down_proj"], [], ["mlp.down_proj"]),
        (["proj"], [], []),
    ],
)
def test_patterns_match_a_name_or_a_suffix_of_it(
    make_llama: Callable[..., LlamaForCausalLM],
    include: Sequence[str],
    exclude: Sequence[str],
    kinds: Sequence[str],
) -> None:
    model = make_llama()
    if not kinds:
        with pytest.raises(InputError, match=r"named like 'model\.layers\.0\.self_attn\.q_proj'"):
            find_matrices(model, include, exclude)
        return
    found = find_matrices(model, include, exclude)
    assert list(dict.fromkeys(matrix.kind for matrix in found)) == list(kinds)


def test_blocks_are_the_list_with_most_weights() -> None:
    model = nn.Module()
    model.norms = nn.ModuleList([nn.LayerNorm(4) for _ in range(9)])
    model.heads = nn.ModuleList([nn.Linear(4, 400) for _ in range(3)])
    model.tower = nn.ModuleList([nn.Sequential(nn.Linear(4, 4)) for _ in range(5)])
    model.blocks = nn.ModuleList([nn.Sequential(nn.Linear(8, 8)), nn.Sequential(nn.ReLU(), nn.Linear(8, 8))])
    name, blocks = block_list(model)
    assert (name, len(blocks)) == ("blocks", 2)
    assert [matrix.name for matrix in find_matrices(model)] == ["blocks.0.0", "blocks.1.1"]


def test_blocks_may_be_of_several_classes_and_hold_longer_lists() -> None:
    class Wide(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.experts = nn.ModuleList([nn.Sequential(nn.Linear(4, 4)) for _ in range(8)])

    model = nn.Module()
    model.layers = nn.ModuleList([Wide(), nn.Sequential(nn.Linear(4, 4)), nn.Identity()])
    assert block_list(model)[0] == "layers"
    expected = [*(f"layers.0.experts.{index}.0" for index in range(8)), "layers.1.0"]
    assert [matrix.name for matrix in find_matrices(model)] == expected


def test_weight_used_at_several_places_is_left_alone_and_counted_once() -> None:
    shared, tied = nn.Linear(4, 4), nn.Linear(4, 4)
    model = nn.Module()
    model.blocks = nn.ModuleList(
        [nn.Sequential(nn.Linear(4, 4), shared, tied), nn.Sequential(shared, nn.Linear(4, 4))]
    )
    model.blocks[1][1].weight = tied.weight
    assert [matrix.name for matrix in find_matrices(model)] == ["blocks.0.0"]
    assert linear_params(model) == 3 * 16
    model.again = model.blocks[0][0]
    with pytest.raises(InputError, match="every weight in the blocks is used at several places"):
        find_matrices(model)


def test_linear_map_that_does_more_is_left_alone_and_counted() -> None:
    class Router(nn.Linear):
        def __init__(self) -> None:
            super().__init__(4, 2)
            self.experts = 2

        def forward(self, input: torch.Tensor) -> torch.Tensor:
            return super().forward(input).softmax(dim=-1)

    class Slow(nn.Linear):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            return input @ self.weight.T + self.bias

    model = nn.Module()
    model.blocks = nn.ModuleList([nn.Sequential(Router(), Slow(2, 4))])
    model.blocks[0].stacked_bias = nn.Parameter(torch.zeros(3, 4))
    model.blocks[0].stacked = nn.Parameter(torch.zeros(3, 4, 4))
    assert [matrix.name for matrix in find_matrices(model)] == ["blocks.0.1"]
    assert linear_params(model) == 4 * 2 + 2 * 4 + 3 * 4 * 4


@pytest.mark.parametrize("model", [nn.Linear(2, 2), nn.Sequential(nn.ModuleList([nn.Conv1d(2, 2, 1)]))])
def test_model_without_blocks_is_refused(model: nn.Module) -> None:
    with pytest.raises(InputError, match=f"model: {type(model).__name__} has no transformer blocks with"):
        find_matrices(model)
