"""Token batches: rows of similar length, padded on the right, in a token budget.

With padding on the right and causal attention no real token ever attends to a padded one, so batches need no attention
mask. The composition of batches depends on the examples alone, not on the worker.
Models with longrope change rotary factors for a whole batch if one of its rows is longer than their first training
length; shorter rows of the batch then depend on it.

Legend: B rows of a batch, L padded length, N answer tokens of a batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from ranksieve.workers.types.plan import Example


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """Rows to run through the model, and positions of the answer tokens' logits.

    `ids_BL` is padded with `0`; `mask_BL` marks real tokens. Answer token n of the batch is predicted by the
    logits at row `row_N[n]`, position `position_N[n]`; it is `token_N[n]` and belongs to answer
    `slot_N[n]`, numbered `example * max_choices + choice` over the examples given to `make_batches`. `compared`:
    whether an example may have several answers, which must not tie because of rounding.
    """

    ids_BL: torch.Tensor
    mask_BL: torch.Tensor
    row_N: torch.Tensor
    position_N: torch.Tensor
    token_N: torch.Tensor
    slot_N: torch.Tensor
    examples: tuple[int, ...]
    compared: bool

    @property
    def tokens(self) -> int:
        """Number of real tokens, padding not counted."""
        return int(self.mask_BL.sum())

    def to(self, device: torch.device) -> "Batch":
        """Return a copy of the batch on a device."""
        moved = {
            name: getattr(self, name).to(device)
            for name in ("ids_BL", "mask_BL", "row_N", "position_N", "token_N", "slot_N")
        }
        return replace(self, **moved)


def make_batches(examples: Sequence[Example], max_choices: int, batch_tokens: int) -> list[Batch]:
    """Group examples by length into batches of at most `batch_tokens` padded tokens.

    All rows of an example share a batch, so that its answers can be normalised over its choices there. An
    example over the budget gets a batch of its own.
    """
    lengths = [longest_row(example) for example in examples]
    groups = grouped(examples, lengths, [0] * len(examples), batch_tokens)
    return [_batch(examples, group, max_choices) for group in groups]


def grouped(
    examples: Sequence[Example], lengths: Sequence[int], following: Sequence[int], batch_tokens: int
) -> list[list[int]]:
    """Group examples of similar length within the token budget, by their index.

    Args:
        examples: What to group.
        lengths: Length of each example, the sort key: the rows of a group are padded to the longest.
        following: Length of each example's continuation, padded to the longest separately.
        batch_tokens: Most padded tokens of a group; a single example may exceed it.
    """
    groups: list[list[int]] = []
    rows = longest = 0
    for index in sorted(range(len(examples)), key=lambda index: (lengths[index], index)):
        more, after = len(examples[index].rows), max(longest, following[index])
        if groups and (rows + more) * (lengths[index] + after) <= batch_tokens:
            groups[-1].append(index)
            rows, longest = rows + more, after
        else:
            groups.append([index])
            rows, longest = more, following[index]
    return groups


def longest_row(example: Example) -> int:
    """Return the number of tokens of an example's longest row."""
    return max(len(row.ids) for row in example.rows)


def _batch(examples: Sequence[Example], group: Sequence[int], max_choices: int) -> Batch:
    rows = [(index, row) for index in group for row in examples[index].rows]
    length = max(len(row.ids) for _, row in rows)
    ids_BL = torch.zeros(len(rows), length, dtype=torch.long)
    mask_BL = torch.zeros(len(rows), length, dtype=torch.bool)
    reads: list[tuple[int, int, int, int]] = []
    for b, (index, row) in enumerate(rows):
        ids_BL[b, : len(row.ids)] = torch.tensor(row.ids)
        mask_BL[b, : len(row.ids)] = True
        for span in row.spans:
            slot = index * max_choices + span.choice
            reads += [(b, span.start + offset, token, slot) for offset, token in enumerate(span.ids)]
    return Batch(
        ids_BL=ids_BL,
        mask_BL=mask_BL,
        row_N=torch.tensor([read[0] for read in reads]),
        position_N=torch.tensor([read[1] for read in reads]),
        token_N=torch.tensor([read[2] for read in reads]),
        slot_N=torch.tensor([read[3] for read in reads]),
        examples=tuple(group),
        compared=max_choices > 1,
    )
