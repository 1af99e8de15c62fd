"""Attention for gradients: faster on a processor, in a fixed order on a GPU.

For short rows in bfloat16 on a processor it is two products and a softmax. torch's fused kernel there is made for long
rows; forwards and back, it takes twice as long for rows of 32 tokens. The gradients of both are as close to those in
float32.

On a GPU the fused kernels sum gradients in the order of threads, unless torch may refuse operations without a fixed
order. For the rest of a model it may not, see `workers.machine.devices`; for attention alone it may.

Everything else goes to the fused kernel unchanged, including all scoring.

Legend: B rows of a batch, L length, S keys' length, H heads, K heads of keys and values, D width of a query
and a key, W of a value.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch.nn import functional as F
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

FUSED, OURS = "sdpa", "ranksieve"
"""Names of implementations in transformers."""

SHORT = 64
"""Most tokens of a short row; at twice as many the fused kernel is about as fast and takes less memory."""


def suit_gradients(model: PreTrainedModel) -> PreTrainedModel:
    """Use this attention in models that would get transformers' fused kernel.

    Other models stay unchanged: they do something of their own between the products.
    """
    if model.config._attn_implementation == FUSED:
        AttentionInterface.register(OURS, attend)
        AttentionMaskInterface.register(OURS, sdpa_mask)
        model.set_attn_implementation(OURS)
    return model


def attend(
    module: torch.nn.Module,
    query_BHLD: torch.Tensor,
    key_BKSD: torch.Tensor,
    value_BKSW: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attend like `sdpa_attention_forward` of transformers; B×L×H×W.

    Arguments and result are the same.
    """
    length, on_cpu = query_BHLD.shape[2], query_BHLD.device.type == "cpu"
    short = on_cpu and length == key_BKSD.shape[2] <= SHORT and query_BHLD.dtype == torch.bfloat16
    plain = dropout == 0 and all(kwargs.get(name) is None for name in ("position_bias", "softcap"))
    if not (short and plain and query_BHLD.requires_grad):
        fused: Callable[..., tuple[torch.Tensor, None]] = partial(
            sdpa_attention_forward, module, dropout=dropout, scaling=scaling, is_causal=is_causal, **kwargs
        )
        inputs = (query_BHLD, key_BKSD, value_BKSW, attention_mask)
        if plain and query_BHLD.requires_grad and torch.are_deterministic_algorithms_enabled():
            return _InOrder.apply(fused, *inputs), None  # type: ignore[no-untyped-call]
        return fused(*inputs)
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    mask = attention_mask
    if mask is None and causal:
        mask = torch.ones(length, length, dtype=torch.bool).tril()
    return _in_full(query_BHLD, key_BKSD, value_BKSW, mask, scaling).transpose(1, 2).contiguous(), None


def _in_full(
    query_BHLD: torch.Tensor,
    key_BKLD: torch.Tensor,
    value_BKLW: torch.Tensor,
    mask: torch.Tensor | None,
    scaling: float | None,
) -> torch.Tensor:
    """Attend with all weights written out, B×H×L×W.

    `mask` is boolean, or added to the scores; it is broadcast to B×H×L×L.
    """
    batch, heads, length, width = query_BHLD.shape
    groups = key_BKLD.shape[1]
    # heads that share their keys are stacked like one longer row
    scores = query_BHLD.reshape(batch, groups, -1, width) @ key_BKLD.transpose(2, 3)
    scale = width**-0.5 if scaling is None else scaling
    scores_BHLL = scores.view(batch, heads, length, length).float() * scale
    if mask is not None:
        lowest = torch.finfo(torch.float32).min
        seen = mask.dtype == torch.bool
        scores_BHLL = scores_BHLL.masked_fill(~mask, lowest) if seen else scores_BHLL + mask
    weights_BHLL = F.softmax(scores_BHLL, dim=-1).to(value_BKLW.dtype)
    return (weights_BHLL.view(batch, groups, -1, length) @ value_BKLW).view(batch, heads, length, -1)


class _InOrder(torch.autograd.Function):
    """First result of a function of tensors; backwards it runs again in a fixed order."""

    @staticmethod
    def forward(
        ctx: Any, run: Callable[..., tuple[torch.Tensor, None]], *inputs: torch.Tensor | None
    ) -> torch.Tensor:
        ctx.run = run
        ctx.save_for_backward(*inputs)
        return run(*inputs)[0]

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, slopes: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        wanted = ctx.needs_input_grad[1:]
        inputs: list[Any] = [one if one is None else one.detach() for one in ctx.saved_tensors]
        leaves = [one.requires_grad_() for one, want in zip(inputs, wanted, strict=True) if want]
        with torch.enable_grad(), _refusing():
            gradients = iter(torch.autograd.grad(ctx.run(*inputs)[0], leaves, slopes))
        return None, *(next(gradients) if want else None for want in wanted)


@contextmanager
def _refusing() -> Iterator[None]:
    """Let torch refuse operations without a fixed order; fused kernels then have one."""
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(True, warn_only=warn_only)
