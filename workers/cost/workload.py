"""Workload at which a model is timed.

It reads a batch of prompts, or writes one token after each of them.

Legend: B rows, L tokens of a row that are run at once.
"""

from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from transformers import PreTrainedModel

from ranksieve.workers.cost.timing import Timed
from ranksieve.workers.forward.batches import make_batches
from ranksieve.workers.forward.likelihood import logits_at
from ranksieve.workers.types.plan import EncodedTask

WorkloadKind = Literal["prefill", "decode"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Workload:
    """A forward pass over prompts, or over one more token after each of them."""

    kind: WorkloadKind
    rows: int
    length: int

    @property
    def shape_BL(self) -> tuple[int, int]:
        """Rows, and tokens of each row, that go through the matrices at once."""
        return self.rows, self.length if self.kind == "prefill" else 1

    @property
    def context(self) -> int:
        """Number of tokens of the longest row."""
        return self.length + (self.kind == "decode")


def typical_batch(task: EncodedTask, split: str, batch_tokens: int) -> tuple[int, int]:
    """Return rows and padded tokens of a split's median batch by tokens."""
    examples = task.splits[split]
    batches = make_batches(examples, max(example.choices for example in examples), batch_tokens)
    shapes = sorted((tuple(batch.ids_BL.shape) for batch in batches), key=lambda shape: shape[0] * shape[1])
    rows, length = shapes[len(shapes) // 2]
    return rows, length


@torch.inference_mode()
def forward_pass(model: PreTrainedModel, workload: Workload) -> Timed:
    """Return a forward pass to time.

    The head computes the logits of each row's last token, as in generation.
    """
    generator = torch.Generator().manual_seed(0)
    size = (workload.rows, workload.length)
    vocabulary = model.config.get_text_config().vocab_size
    ids_BL = torch.randint(vocabulary, size, generator=generator).to(model.device)
    rows, length = workload.shape_BL
    last_R = torch.full((rows,), length - 1, device=model.device)
    logits = partial(logits_at, model, torch.arange(rows, device=model.device), last_R)

    @torch.inference_mode()
    def read() -> Any:
        return logits(input_ids=ids_BL, use_cache=False)

    if workload.kind == "prefill":
        return Timed(run=read)
    kept = model(input_ids=ids_BL, use_cache=True).cache
    fresh = [kept]

    def copy_cache() -> None:
        fresh[0] = deepcopy(kept)  # a pass adds to it

    @torch.inference_mode()
    def write() -> Any:
        return logits(input_ids=ids_BL[:, -1:], cache=fresh[0], use_cache=True)

    return Timed(run=write, prepare=copy_cache)
