import ast
import inspect
from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from torch import nn
from transformers import GPT2LMHeadModel

from ranksieve.workers.model import experts, layers
from ranksieve.workers.model.layers import LowRankLinear, replace_linears

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
    torch.testing.assert_close(layer.weight, layer.up.weight @ layer.down.weight)
    assert not any(name == "weight" for name, _ in layer.named_parameters())


@pytest.mark.parametrize("shape", [(4,), (0, 4), (2, 0, 4), (2, 3, 4)])
def test_layer_takes_what_a_linear_map_takes(shape: tuple[int, ...]) -> None:
    layer, x = LowRankLinear(4, 3, 2, True), torch.randn(shape)
    bias = layer(torch.zeros(4))
    torch.testing.assert_close(layer(x), nn.functional.linear(x, layer.weight, bias))


@pytest.mark.parametrize("rank", [0, 2])
@pytest.mark.parametrize("bias", [True, False])
def test_bias_is_where_a_models_own_code_looks_for_it(rank: int, bias: bool) -> None:
    layer = LowRankLinear(4, 3, rank, bias=bias)
    assert (layer.bias is not None) == bias
    layer.set_bias(mine := nn.Parameter(torch.ones(3)))
    assert layer.bias is mine
    assert [name for name, _ in layer.named_parameters() if name.endswith("bias")] == [
        "up.bias" if rank else "bias"
    ]
    x_ND = torch.randn(5, 4)
    torch.testing.assert_close(layer(x_ND), x_ND @ layer.weight.T + 1)


@pytest.mark.parametrize("bias", [True, False])
def test_rank_zero_holds_a_bias_at_most(bias: bool) -> None:
    layer = LowRankLinear(4, 3, rank=0, bias=bias)
    assert list(layer.state_dict()) == (["bias"] if bias else [])
    if bias:
        nn.init.constant_(layer.bias, 5.0)
    assert layer(X_BLD).equal(torch.full((1, 2, 3), 5.0 if bias else 0.0))
    assert layer.weight.equal(torch.zeros(3, 4))
    assert layer.to(torch.bfloat16).weight.dtype is torch.bfloat16


@pytest.mark.parametrize("rank", [0, 2])
def test_replaced_conv1d_keeps_its_bias_and_dtype(
    make_gpt2: Callable[[], GPT2LMHeadModel], rank: int
) -> None:
    model = make_gpt2().to(torch.bfloat16)
    name = "transformer.h.1.mlp.c_fc"
    bias = model.get_parameter(f"{name}.bias")
    replace_linears(model, {name: rank})
    layer = model.get_submodule(name)
    assert type(layer) is LowRankLinear
    assert sum(parameter is bias for parameter in layer.parameters()) == 1
    assert layer(torch.ones(1, 24, dtype=torch.bfloat16)).shape == (1, 96)
    assert {parameter.dtype for parameter in layer.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("module", [layers, experts])
def test_code_of_exports_imports_torch_alone(module: ModuleType) -> None:
    tree = ast.parse(inspect.getsource(module))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert imported <= {"torch", "collections.abc", "typing"}
