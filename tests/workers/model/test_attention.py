"""Attention of short rows against the fused kernel: the same outputs and gradients, only where gradients are wanted."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import nn
from transformers import LlamaForCausalLM
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from ranksieve.workers.model import attention
from ranksieve.workers.model.attention import SHORT, attend, suit_gradients

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
def test_values_may_be_of_another_width_than_keys(value_width: int, fused: list[int]) -> None:
    inputs = heads(12, value_width=value_width)
    for mine, true in zip(run(attend, inputs, None), exact(inputs, None), strict=True):
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


@pytest.fixture
def refuses(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bool]]:
    """As in a process that has a GPU; whether torch may refuse, at each run of the fused kernel and of its way back."""
    strict_flags: list[bool] = []

    def tell(_: object = None) -> None:
        strict_flags.append(not torch.is_deterministic_algorithms_warn_only_enabled())

    def noted(*inputs: object, **options: object) -> tuple[torch.Tensor, None]:
        tell()
        output, _ = sdpa_attention_forward(*inputs, **options)  # type: ignore[arg-type]
        if output.requires_grad:
            output.register_hook(tell)
        return output, None

    monkeypatch.setattr(attention, "sdpa_attention_forward", noted)
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield strict_flags
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_where_sums_have_to_be_in_one_order_attention_goes_back_with_torch_refusing_others(
    dtype: torch.dtype, refuses: list[bool]
) -> None:
    length = SHORT + 6
    mask = torch.ones(length, length, dtype=torch.bool).tril().triu(-9).expand(4, 1, -1, -1)
    options = (heads(length, dtype), mask)
    ours = run(attend, *options)
    assert refuses == [False, True, True]  # forwards, once more, back
    assert torch.is_deterministic_algorithms_warn_only_enabled()
    for mine, other in zip(ours, run(sdpa_attention_forward, *options), strict=True):
        assert mine.equal(other)


def test_a_mask_gets_its_gradient_too_where_one_is_wanted(refuses: list[bool]) -> None:
    gradients = []
    for function in (attend, sdpa_attention_forward):
        mask = torch.zeros(4, 6, 8, 8, requires_grad=True)
        output, _ = function(GROUPED, *heads(8, torch.float32), mask)  # type: ignore[arg-type]
        output.square().sum().backward()
        assert mask.grad is not None
        gradients.append(mask.grad)
    assert refuses == [False, True, True]
    assert gradients[0].equal(gradients[1])
    assert gradients[0].any()


@pytest.mark.parametrize(
    ("inputs", "options"),
    [(heads(8, torch.float32, wanted=False), {}), (heads(8, torch.float32), {"dropout": 0.5})],
    ids=["no gradient", "dropout"],
)
def test_what_has_no_way_back_or_another_one_each_time_runs_once(
    inputs: list[torch.Tensor], options: dict[str, float], refuses: list[bool]
) -> None:
    attend(GROUPED, *inputs, None, **options)  # type: ignore[arg-type]
    assert refuses == [False]


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_models_are_suited_on_every_device(make_llama: Callable[..., LlamaForCausalLM], device: str) -> None:
    assert suit_gradients(make_llama().to(device)).config._attn_implementation == attention.OURS  # type: ignore[arg-type]
    eager = suit_gradients(make_llama(attn_implementation="eager"))
    assert eager.config._attn_implementation == "eager"


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
