"""Attention of short rows against the fused kernel: the same outputs and gradients, only where gradients are wanted."""

from collections.abc import Callable

import pytest
import torch
from torch import nn
from transformers import LlamaForCausalLM
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from workers import attention
from workers.attention import SHORT, attend, suit_gradients

GROUPED, CAUSAL = nn.Module(), nn.Module()
GROUPED.num_key_value_groups = 3  # type: ignore[assignment]
IDS_BL = torch.arange(40).view(4, 10)


def heads(
    length: int,
    dtype: torch.dtype = torch.bfloat16,
    groups: int = 3,
    value_width: int = 8,
    *,
    wanted: bool = True,
) -> list[torch.Tensor]:
    """Query, key and value of four rows, six heads, width 8."""
    generator = torch.Generator().manual_seed(0)
    sizes = ((6, 8), (6 // groups, 8), (6 // groups, value_width))
    made = [torch.randn(4, count, length, width, generator=generator).to(dtype) for count, width in sizes]
    return [one.requires_grad_(wanted) for one in made]


def run(
    function: Callable[..., tuple[torch.Tensor, None]],
    inputs: list[torch.Tensor],
    mask: torch.Tensor | None,
    module: nn.Module = GROUPED,
    **options: float | bool,
) -> list[torch.Tensor]:
    """The output and the gradients of the inputs, in float32."""
    output, weights = function(module, *inputs, mask, **options)
    assert weights is None
    slopes = torch.randn(output.shape, generator=torch.Generator().manual_seed(1))
    gradients = torch.autograd.grad((output.float() * slopes).sum(), inputs)
    return [one.float() for one in (output, *gradients)]


def exact(
    inputs: list[torch.Tensor], mask: torch.Tensor | None, **options: float | bool
) -> list[torch.Tensor]:
    wide = [one.detach().double().requires_grad_() for one in inputs]
    module = CAUSAL if wide[0].shape[1] == wide[1].shape[1] else GROUPED
    return run(sdpa_attention_forward, wide, None if mask is None else mask, module, **options)


@pytest.fixture
def fused(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Lengths of the rows that the fused kernel was given."""
    lengths: list[int] = []

    def noted(module: nn.Module, query: torch.Tensor, *others: object, **options: object) -> object:
        lengths.append(query.shape[2])
        return sdpa_attention_forward(module, query, *others, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(attention, "sdpa_attention_forward", noted)
    return lengths


@pytest.mark.parametrize("options", [{}, {"scaling": 0.7}, {"is_causal": False}], ids=str)
@pytest.mark.parametrize("groups", [1, 3])
def test_short_rows_are_as_near_to_the_truth_as_those_of_the_fused_kernel(
    options: dict[str, float | bool], groups: int, fused: list[int]
) -> None:
    inputs, module = heads(20, groups=groups), GROUPED if groups > 1 else CAUSAL
    truth = exact(inputs, None, **options)
    ours, theirs = (
        run(function, inputs, None, module, **options) for function in (attend, sdpa_attention_forward)
    )
    assert not fused
    for mine, other, true in zip(ours, theirs, truth, strict=True):
        assert (mine - true).norm() < 2 * (other - true).norm() < 0.01 * true.norm()


@pytest.mark.parametrize("boolean", [True, False])
def test_masks_of_both_kinds_hide(boolean: bool, fused: list[int]) -> None:
    inputs = heads(12)
    seen = torch.ones(12, 12, dtype=torch.bool).tril().triu(-3).expand(4, 1, 12, 12)
    mask = seen if boolean else torch.zeros(4, 1, 12, 12).masked_fill(~seen, -1e30)
    for mine, true in zip(
        run(attend, inputs, mask), exact(inputs, mask.double() if not boolean else mask), strict=True
    ):
        torch.testing.assert_close(mine, true, rtol=2e-2, atol=2e-2)
    assert not fused


@pytest.mark.parametrize("value_width", [4, 12])
@pytest.mark.parametrize("groups", [1, 3])
def test_values_may_be_of_another_width_than_keys(groups: int, value_width: int, fused: list[int]) -> None:
    inputs = heads(12, groups=groups, value_width=value_width)
    module = GROUPED if groups > 1 else CAUSAL
    for mine, true in zip(run(attend, inputs, None, module), exact(inputs, None), strict=True):
        torch.testing.assert_close(mine, true, rtol=2e-2, atol=2e-2)
    assert not fused


@pytest.mark.parametrize(
    ("inputs", "options"),
    [
        (heads(SHORT + 1), {}),
        (heads(8, torch.float32), {}),
        (heads(8, wanted=False), {}),
        (heads(8), {"dropout": 0.5}),
        (heads(8), {"position_bias": torch.zeros(1, 6, 8, 8, dtype=torch.bfloat16)}),
    ],
    ids=["long", "float32", "no gradient", "dropout", "bias"],
)
def test_everything_else_is_left_to_the_fused_kernel(
    inputs: list[torch.Tensor], options: dict[str, object], fused: list[int]
) -> None:
    attend(GROUPED, *inputs, None, **options)  # type: ignore[arg-type]
    assert fused == [inputs[0].shape[2]]


def test_a_models_scores_stay_and_its_gradients_are_about_the_same(
    make_llama: Callable[..., LlamaForCausalLM], fused: list[int]
) -> None:
    logits, gradients = [], []
    for suit in (lambda model: model, suit_gradients):
        model = suit(make_llama().bfloat16()).requires_grad_()
        with torch.no_grad():
            logits.append(model(IDS_BL).logits)
        inner = fused.copy()
        model(IDS_BL).logits.float().logsumexp(dim=2).sum().backward()
        assert fused == inner  # not asked again
        gradients.append(
            torch.cat([p.grad.flatten().float() for p in model.parameters() if p.grad is not None])
        )
    assert logits[0].equal(logits[1])
    assert torch.cosine_similarity(*gradients, dim=0) > 0.999
    assert not gradients[0].equal(gradients[1])
