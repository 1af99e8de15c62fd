from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from transformers import LlamaForCausalLM

from ranksieve.search.space.matrix import DENSE
from ranksieve.workers.factors.decomposition import factor
from ranksieve.workers.model.switchable import SwitchableLinear, SwitchableModel

IDS_BL = torch.tensor([[4, 9, 30, 12, 7], [20, 3, 5, 41, 17]])
X_BLD = torch.randn(2, 3, 9, generator=torch.Generator().manual_seed(0))


def switchable(bias: bool) -> tuple[SwitchableLinear, nn.Linear]:
    torch.manual_seed(0)
    dense = nn.Linear(9, 6, bias=bias)
    factors = factor(dense.weight.detach(), 6, None, None)
    return SwitchableLinear(dense, factors.left_RO.float(), factors.right_RD.float()), dense


@pytest.mark.parametrize("bias", [True, False])
def test_linear_at_every_rank(bias: bool) -> None:
    module, dense = switchable(bias)
    torch.testing.assert_close(module(X_BLD), dense(X_BLD), rtol=0, atol=0)
    u_OK, s_K, v_KD = torch.linalg.svd(dense.weight.detach(), full_matrices=False)
    for rank in range(7):
        module.rank = rank
        weight_OD = u_OK[:, :rank] * s_K[:rank] @ v_KD[:rank]
        torch.testing.assert_close(module(X_BLD), F.linear(X_BLD, weight_OD, dense.bias))


def test_switching_copies_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    module, dense = switchable(bias=True)
    assert module.weight.data_ptr() == dense.weight.data_ptr()
    seen: list[torch.Tensor] = []
    linear = F.linear

    def spy(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        seen.append(weight)
        return linear(x, weight, bias)

    monkeypatch.setattr(F, "linear", spy)
    module.rank = 2
    module(X_BLD)
    right_rD, left_Or = seen
    assert (right_rD.shape, left_Or.shape) == ((2, 9), (6, 2))
    assert right_rD.data_ptr() == module.right_RD.data_ptr()
    assert left_Or.data_ptr() == module.left_RO.data_ptr()


def test_ranks_fit_the_matrices(
    make_llama: Callable[..., LlamaForCausalLM], make_switchable: Callable[..., Any]
) -> None:
    candidate, matrices = make_switchable(make_llama())
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        candidate.switch([DENSE] * (len(matrices) - 1))


def test_factors_take_the_dtype_of_the_model(
    make_llama: Callable[..., LlamaForCausalLM], make_switchable: Callable[..., Any]
) -> None:
    model = make_llama().bfloat16()
    candidate, matrices = make_switchable(model)
    candidate.switch([3] * len(matrices))
    module = model.get_submodule(matrices[0].name)
    assert isinstance(candidate, SwitchableModel)
    assert module.left_RO.dtype == module.right_RD.dtype == torch.bfloat16  # type: ignore[union-attr]
    assert torch.isfinite(model(IDS_BL).logits).all()


def test_factors_are_not_saved_with_the_model(
    make_llama: Callable[..., LlamaForCausalLM], make_switchable: Callable[..., Any]
) -> None:
    model = make_llama()
    names = set(model.state_dict())
    make_switchable(model)
    assert set(model.state_dict()) == names
