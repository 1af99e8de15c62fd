"""Weights of few bits, as compressed-tensors stores and transformers reads them.

Numbers of a weight's last axis share a scale, in groups. Ranks are multiples of a group, so rounding is nested: a slice
of rounded factors is what rounding that slice gives. Scorers and writers of exports round by these functions.

Legend: W rows of a weight, G groups of a row, N numbers of a group; R largest rank, O output width, D input width.
"""

from functools import cache
from typing import Any, TypeGuard

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from ranksieve.search.errors import InputError
from ranksieve.workers.machine.extras import require_extra
from ranksieve.workers.types.plan import GROUP

FORMAT = "pack-quantized"
"""Name that compressed-tensors has for packed integers."""

EXTRA, LIBRARIES = "quantize", ("compressed_tensors",)
"""Extra of this package, and the modules that it installs."""

SCALES = (1.0, 1.07, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7)
"""Scales to choose from, as shares of the one that spreads the largest number over the whole range.

Of reviews that no table reports, the demo's model of seed 7 has 0.869 right, with 4 bits 0.812 by the first scale
alone and 0.853 by the best.
"""

CHUNK = 2**18
"""Numbers whose scales are chosen at once: they stay in a processor's cache."""

Map = nn.Linear | nn.Embedding | Conv1D


def is_map(module: nn.Module) -> TypeGuard[Map]:
    """Return whether a module's weight is rounded: a linear map or an embedding."""
    return isinstance(module, Map)


def check_rounding(model: nn.Module) -> None:
    """Check that a model's weights can be stored in few bits, and loaded.

    Raises:
        InputError: compressed-tensors is not installed, or transformers would load other modules.
    """
    require_extra(EXTRA, LIBRARIES, "bits")
    from transformers.quantizers.base import MODULES_TO_PATCH_FOR_QUANTIZATION

    replaced = {type(module).__name__ for module in model.modules()} & set(MODULES_TO_PATCH_FOR_QUANTIZATION)
    if replaced:
        raise InputError(
            "bits",
            f"cannot be few for this model: transformers builds other modules than {', '.join(sorted(replaced))} "
            "around rounded weights; leave it out",
        )


@cache
def scheme_of(bits: int) -> Any:
    """Return the scheme of compressed-tensors for weights of 4 or 8 bits."""
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

    grouping = {"strategy": "channel"} if bits == 8 else {"strategy": "group", "group_size": GROUP}
    weights = QuantizationArgs(num_bits=bits, type="int", symmetric=True, **grouping)
    return QuantizationScheme(targets=["Linear", "Embedding"], weights=weights, format=FORMAT)


def packed(weight_WX: torch.Tensor, bits: int) -> dict[str, torch.Tensor]:
    """Return what is stored of a weight, by part.

    Of a few scales, each group or row has the one with the least squared error. A weight whose width is no multiple of
    the group stays as it is: `weight`.
    """
    from compressed_tensors.compressors import BaseCompressor

    if (scale_WG := _scales(weight_WX, bits)) is None:
        return {"weight": weight_WX}
    compressor = BaseCompressor.get_value_from_registry(FORMAT)
    state = compressor.compress({"weight": weight_WX, "weight_scale": scale_WG}, scheme_of(bits))
    return {part: tensor.contiguous() for part, tensor in state.items()}


def rounded(weight_WX: torch.Tensor, bits: int) -> torch.Tensor:
    """Return a weight as it is read back after it was stored in few bits."""
    from compressed_tensors.quantization.lifecycle.forward import fake_quantize

    if (scale_WG := _scales(weight_WX, bits)) is None:
        return weight_WX
    result: torch.Tensor = fake_quantize(weight_WX, scale_WG, None, scheme_of(bits).weights)
    return result


def round_weights(model: nn.Module, bits: int) -> None:
    """Round all linear maps and embeddings of a model, in place; tied weights once."""
    done: set[int] = set()
    for module in model.modules():
        if is_map(module) and id(module.weight) not in done:
            module.weight.data = rounded(module.weight.data, bits)
            done.add(id(module.weight))


def rounded_factors(
    left_RO: torch.Tensor, right_RD: torch.Tensor, bits: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return nested factors whose slices are what rounding those slices gives.

    They end at the last multiple of the group, since no rank lies beyond.
    """
    whole = len(left_RO) - len(left_RO) % GROUP
    left_OR = rounded(left_RO[:whole].T.contiguous(), bits)
    return left_OR.T.contiguous(), rounded(right_RD[:whole], bits)


def _scales(weight_WX: torch.Tensor, bits: int) -> torch.Tensor | None:
    """Return the scale of each group, W×G; None if there are no whole groups."""
    rounding = scheme_of(bits).weights
    width = weight_WX.shape[-1]
    group = rounding.group_size or width
    if not weight_WX.numel() or width % group:
        return None
    chunks = torch.split(weight_WX, max(1, CHUNK // width))
    return torch.cat([_best_scale(chunk.reshape(*chunk.shape[:-1], -1, group), rounding) for chunk in chunks])


def _best_scale(grouped_WGN: torch.Tensor, rounding: Any) -> torch.Tensor:
    """Return the scale of each group that loses least, W×G, in the weight's dtype.

    Errors are added in float64: their order, which differs between devices and shapes, does not decide.
    """
    from compressed_tensors.quantization.utils import calculate_qparams

    dtype, grouped_WGN = grouped_WGN.dtype, grouped_WGN.float()
    widest_WG: torch.Tensor
    widest_WG, _ = calculate_qparams(grouped_WGN.amin(-1), grouped_WGN.amax(-1), rounding)
    most = 2 ** (rounding.num_bits - 1) - 1
    best_WG, least_WG = widest_WG.to(dtype), torch.full_like(widest_WG, torch.inf, dtype=torch.float64)
    for share in SCALES:
        scale_WG = (widest_WG * share).to(dtype)
        scale_WGN = scale_WG.float().unsqueeze(-1)
        rounded_WGN = (grouped_WGN / scale_WGN).round_().clamp_(-most - 1, most).mul_(scale_WGN)
        error_WG = rounded_WGN.sub_(grouped_WGN).square_().sum(-1, dtype=torch.float64)
        best_WG = torch.where(error_WG < least_WG, scale_WG, best_WG)
        least_WG = torch.minimum(error_WG, least_WG)
    return best_WG
