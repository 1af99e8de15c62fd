import ast
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import GPT2LMHeadModel

import workers.lowrank_module
from workers.lowrank_module import LowRankLinear, replace_linears

X_BLD = torch.ones(1, 2, 4)


def test_layer_is_up_after_down() -> None:
    layer = LowRankLinear(4, 3, rank=2, bias=True)
    expected = X_BLD @ (layer.up.weight @ layer.down.weight).T + layer.up.bias
    torch.testing.assert_close(layer(X_BLD), expected)
    assert {name: tuple(value.shape) for name, value in layer.state_dict().items()} == {
        "down.weight": (2, 4),
        "up.weight": (3, 2),
        "up.bias": (3,),
    }


@pytest.mark.parametrize("bias", [True, False])
def test_rank_zero_holds_a_bias_at_most(bias: bool) -> None:
    layer = LowRankLinear(4, 3, rank=0, bias=bias)
    assert list(layer.state_dict()) == (["bias"] if bias else [])
    if bias:
        nn.init.constant_(layer.bias, 5.0)
    assert layer(X_BLD).equal(torch.full((1, 2, 3), 5.0 if bias else 0.0))


@pytest.mark.parametrize("rank", [0, 2])
def test_replaced_conv1d_keeps_its_bias_and_dtype(
    make_gpt2: Callable[[], GPT2LMHeadModel], rank: int
) -> None:
    model = make_gpt2().to(torch.bfloat16)
    name = "transformer.h.1.mlp.c_fc"
    bias = model.get_parameter(f"{name}.bias")
    replace_linears(model, {name: rank})
    layer = model.get_submodule(name)
    assert isinstance(layer, LowRankLinear)
    assert (layer.up.bias if rank else layer.bias) is bias
    assert layer(torch.ones(1, 24, dtype=torch.bfloat16)).shape == (1, 96)
    assert {parameter.dtype for parameter in layer.parameters()} == {torch.bfloat16}


def test_module_knows_torch_and_nothing_else() -> None:
    tree = ast.parse(Path(workers.lowrank_module.__file__).read_text())
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert imported == {"torch", "collections.abc"}
