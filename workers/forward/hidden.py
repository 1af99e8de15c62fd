"""Hidden states of prompts, behind some of a model's blocks."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers import PreTrainedModel

from ranksieve.workers.forward.batches import make_batches
from ranksieve.workers.model.matrices import block_list
from ranksieve.workers.types.plan import Example, Row, Span


@torch.inference_mode()
def hidden_states(
    model: PreTrainedModel, depths: Sequence[int], examples: Sequence[Example], batch_tokens: int
) -> Mapping[int, NDArray[np.float32]]:
    """Return the hidden state of each prompt's last token behind some blocks.

    Args:
        model: Its output head is not run.
        depths: Numbers of blocks.
        examples: Examples with the prompts.
        batch_tokens: Padded tokens per forward pass.

    Returns:
        Number of blocks → examples × hidden size.
    """
    blocks, seen = block_list(model)[1], dict[int, torch.Tensor]()

    def keep(depth: int) -> Callable[..., None]:
        def after_forward(_: nn.Module, __: Any, output: Any) -> None:
            seen[depth] = output[0] if isinstance(output, tuple) else output

        return after_forward

    shape = len(examples), model.config.get_text_config().hidden_size
    found = {depth: np.zeros(shape, np.float32) for depth in depths}
    with ExitStack() as hooks:
        for depth in depths:
            hooks.enter_context(blocks[depth - 1].register_forward_hook(keep(depth)))
        for batch in make_batches([_prompt_alone(example) for example in examples], 1, batch_tokens):
            here = batch.to(model.device)
            model.base_model(input_ids=here.ids_BL, use_cache=False)
            for depth in depths:
                state_LH = seen[depth]
                last_NH = state_LH[here.row_N.to(state_LH.device), here.position_N.to(state_LH.device)]
                found[depth][batch.slot_N.numpy()] = last_NH.float().cpu().numpy()
    return found


def _prompt_alone(example: Example) -> Example:
    """Return the example with one row, its prompt, that is read at the last token."""
    span = Span(choice=0, start=len(example.prompt_ids) - 1, ids=(0,))
    return replace(example, rows=(Row(ids=example.prompt_ids, spans=(span,)),), choices=1)
