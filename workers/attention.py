"""Attention where gradients are wanted of short rows in bfloat16 on a processor: two products and a softmax.

torch's fused kernel there is made for long rows. Its backward pass takes a third of the time of a round over records of
some thirty tokens; what writes the weights of all pairs out takes a fraction of that, and its gradients are as near to
those in float32. Everything else goes to the fused kernel, all that is scored among it.

Legend: B rows of a batch, L length, S keys' length, H heads, K heads of keys and values, D width of a query
and a key, W of a value.
"""

from typing import Any

import torch
from torch.nn import functional as F
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

FUSED, OURS = "sdpa", "ranksieve"
"""Names of implementations, as transformers knows them."""

SHORT = 64
"""Tokens. At twice as many the fused kernel is about as fast, and the weights of all pairs take memory."""


def suit_gradients(model: PreTrainedModel) -> PreTrainedModel:
    """Lets a model on a processor take the faster way wherever there is one; others stay as they are.

    Those that transformers does not give the fused kernel, as they do something of their own between the products, are
    among the others.
    """
    if model.device.type == "cpu" and model.config._attn_implementation == FUSED:
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
    """What `sdpa_attention_forward` of transformers does, with the same arguments and result, B×L×H×W."""
    length = query_BHLD.shape[2]
    short = length == key_BKSD.shape[2] <= SHORT and query_BHLD.dtype == torch.bfloat16
    plain = dropout == 0 and all(kwargs.get(name) is None for name in ("position_bias", "softcap"))
    if not (short and plain and query_BHLD.requires_grad):
        return sdpa_attention_forward(
            module,
            query_BHLD,
            key_BKSD,
            value_BKSW,
            attention_mask,
            dropout=dropout,
            scaling=scaling,
            is_causal=is_causal,
            **kwargs,
        )
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
    """B×H×L×W. `mask`: what may be seen, or what is added; broadcast to B×H×L×L."""
    batch, heads, length, width = query_BHLD.shape
    groups = key_BKLD.shape[1]
    # heads that share their keys stand below each other, as if they were one longer row
    scores = query_BHLD.reshape(batch, groups, -1, width) @ key_BKLD.transpose(2, 3)
    scale = width**-0.5 if scaling is None else scaling
    scores_BHLL = scores.view(batch, heads, length, length).float() * scale
    if mask is not None:
        lowest = torch.finfo(torch.float32).min
        seen = mask.dtype == torch.bool
        scores_BHLL = scores_BHLL.masked_fill(~mask, lowest) if seen else scores_BHLL + mask
    weights_BHLL = F.softmax(scores_BHLL, dim=-1).to(value_BKLW.dtype)
    return (weights_BHLL.view(batch, groups, -1, length) @ value_BKLW).view(batch, heads, length, -1)
