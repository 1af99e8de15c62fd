"""The first blocks of the dense model, tuned."""

from collections.abc import Iterator, Sequence
from functools import partial

import torch
from transformers import PreTrainedModel

from ranksieve.workers.factors.tuning import MEASURED_WIDTH, keep_first, trainable
from ranksieve.workers.model.matrices import block_list
from ranksieve.workers.rivals.rival import Rival, Setup, language_model
from ranksieve.workers.rivals.tuning import best_tuned, tune

SHARES = (1 / 6, 1 / 3, 1 / 2)
"""Shares of the blocks that are kept."""

LEARNING_RATES = (3e-4, 1e-3)
"""Highest rates at `MEASURED_WIDTH`; they fall as one over the width."""


def first_blocks(setup: Setup) -> Iterator[Rival]:
    """Yield the first blocks with the norm and the output head behind them, tuned.

    Embeddings and output head stay as they are.
    """
    dense = setup.load()
    blocks, wanted = len(block_list(dense)[1]), depths(dense, SHARES)
    rates = [rate * MEASURED_WIDTH / dense.config.get_text_config().hidden_size for rate in LEARNING_RATES]
    del dense

    def tuned(depth: int, rate: float) -> PreTrainedModel:
        model = setup.load(torch.float32)
        keep_first(model, depth)
        tune(setup, model, trainable(model), rate)
        return model.to(setup.dtype)  # type: ignore[no-any-return, arg-type]

    for depth in wanted:
        model, rate = best_tuned(setup, partial(tuned, depth), rates)
        settings = {"blocks": depth, "learning_rate": rate}
        yield language_model(setup, f"first {depth} of {blocks} blocks, tuned", model, settings)
        del model  # frees it before the next is loaded


def depths(model: PreTrainedModel, shares: Sequence[float]) -> list[int]:
    """Return the different numbers of blocks at shares of all blocks, ascending."""
    blocks = len(block_list(model)[1])
    return sorted({max(1, round(share * blocks)) for share in shares})
