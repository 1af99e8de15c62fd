"""Placement of a model's blocks on one device, or on several in sequence.

Blocks go to the devices in model order, with equal parameters on each. Modules outside the blocks (embeddings, final
norm, head) stay with the first blocks, and so do inputs and logits: callers see one device. The devices work in turn;
several of them add memory, not speed.
"""

from collections.abc import Sequence
from typing import Any

import torch
from accelerate.utils import send_to_device
from torch import nn
from transformers import PreTrainedModel

from ranksieve.workers.model.matrices import block_list


def place(model: PreTrainedModel, devices: Sequence[torch.device]) -> PreTrainedModel:
    """Move a model, in place; at most one block is in two places at a time.

    Args:
        model: Model with all its weights in memory, or mapped from a file.
        devices: One or more.
    """
    first = devices[0]
    if len(devices) == 1:
        return model.to(first)  # type: ignore[arg-type, no-any-return]
    prefix, blocks = block_list(model)
    model.set_submodule(prefix, nn.ModuleList())
    model.to(first)  # type: ignore[arg-type]
    outside = _params(model)
    model.set_submodule(prefix, blocks)
    for block, device in zip(blocks, _shared_out(blocks, devices, outside), strict=True):
        block.to(device)
        block.register_forward_pre_hook(_bring_to(device), with_kwargs=True)
    blocks[-1].register_forward_hook(lambda _, __, output: send_to_device(output, first))
    return model


def _shared_out(blocks: nn.ModuleList, devices: Sequence[torch.device], outside: int) -> list[torch.device]:
    """Return the device of every block.

    It is where the block's middle falls if all parameters are laid end to end over the devices.
    """
    sizes = [_params(block) for block in blocks]
    share = (outside + sum(sizes)) / len(devices)
    placed, before = [], float(outside)
    for size in sizes:
        placed.append(devices[min(int((before + size / 2) / share), len(devices) - 1)])
        before += size
    return placed


def _params(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _bring_to(device: torch.device) -> Any:
    def before_forward(_: nn.Module, args: Any, kwargs: Any) -> Any:
        return send_to_device((args, kwargs), device)

    return before_forward
