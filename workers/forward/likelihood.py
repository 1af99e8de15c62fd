"""From a batch to the log-likelihood of its answers.

Legend: B rows, L padded length, H hidden size, N answer tokens, Q positions that are read, V vocabulary, E examples,
S those of a batch, C choices.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

from ranksieve.workers.forward.batches import Batch
from ranksieve.workers.types.plan import Example


@dataclass(frozen=True, kw_only=True, slots=True)
class Predicted:
    """What a model makes of the answers of some examples, and what it writes itself, where that was wanted.

    `logits_NV`, float32, predict `token_N`, answer after answer in the order of `examples`; so are the `texts`.
    `slot_N`: which answer each token belongs to, as of a `Batch`.
    """

    examples: tuple[int, ...]
    logits_NV: torch.Tensor
    token_N: torch.Tensor
    slot_N: torch.Tensor
    texts: tuple[str | None, ...]


def answer_logits(model: PreTrainedModel, batch: Batch) -> torch.Tensor:
    """Runs the model and returns the logits that predict each answer token, N×V, float32."""
    return logits_at(model, batch.row_N, batch.position_N, input_ids=batch.ids_BL, use_cache=False)


def logits_at(
    model: PreTrainedModel, row_N: torch.Tensor, position_N: torch.Tensor, **inputs: Any
) -> torch.Tensor:
    """Runs the model and returns its logits at some positions, N×V, float32; see `logits_read`."""
    logits_QV, place_N = logits_read(model, row_N, position_N, **inputs)
    # not `logits_QV[place_N]`: several answers begin at one place, and its gradients are summed in any order
    return logits_QV.index_select(0, place_N).float()


def logits_read(
    model: PreTrainedModel, row_N: torch.Tensor, position_N: torch.Tensor, **inputs: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    """Runs the model and returns its logits at each of some positions once, Q×V, and which of them each one is, N.

    Each of them goes through the output head once, the others not at all: on a small model the head costs as much as
    several blocks.

    Args:
        model: Any causal one.
        row_N: Of the inputs.
        position_N: In those rows.
        inputs: As the model's forward takes them.
    """
    places_2N = torch.stack([row_N, position_N])
    (row_Q, position_Q), place_N = torch.unique(places_2N, dim=1, return_inverse=True)
    narrowed = False

    def narrow(_: torch.nn.Module, args: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        nonlocal narrowed
        narrowed = True
        (hidden_BLH,) = args
        return (hidden_BLH[row_Q, position_Q][None],)

    head = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    with nullcontext() if head is None else head.register_forward_pre_hook(narrow):
        logits: torch.Tensor = model(**inputs).logits
    logits_QV = logits[0] if narrowed else logits[row_Q, position_Q]
    return logits_QV, place_N


def slot_log_likelihoods(
    logits_NV: torch.Tensor, batch: Batch | Predicted, examples: int, max_choices: int
) -> torch.Tensor:
    """Sums token log-probabilities into one log-likelihood per answer, E×C; answers not in the batch are 0."""
    logp_N = logits_NV.log_softmax(dim=1).gather(1, batch.token_N[:, None])[:, 0]
    sums = torch.zeros(examples * max_choices, dtype=logp_N.dtype, device=logp_N.device)
    return sums.index_add(0, batch.slot_N, logp_N).view(examples, max_choices)


def choice_scores(
    logits_NV: torch.Tensor, examples: Sequence[Example], batch: Batch, max_choices: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The log-likelihood of every answer of the batch's examples, S×C, and which of the choices were offered."""
    score_SC = slot_log_likelihoods(logits_NV, batch, len(examples), max_choices)[list(batch.examples)]
    offered_S1 = torch.tensor([[examples[index].choices] for index in batch.examples])
    return score_SC, (torch.arange(max_choices)[None] < offered_S1).to(score_SC.device)


def right_share(score_SC: torch.Tensor, label_S: torch.Tensor) -> torch.Tensor:
    """What each example scores, S: 1 where its label is likeliest, 1/n where n choices are, it among them, else 0.

    In bfloat16 one answer in a hundred is such a tie. Given to the first, a model would be the better or the worse for
    the order of the choices.

    Args:
        score_SC: Log-likelihoods, -inf where a choice is not offered.
        label_S: The right ones.
    """
    best_SC = score_SC == score_SC.amax(dim=1, keepdim=True)
    return best_SC.gather(1, label_S[:, None])[:, 0].double() / best_SC.sum(dim=1)


def right_choices(examples: Sequence[Example], batch: Batch, device: torch.device) -> torch.Tensor:
    """The label of each of the batch's examples, S."""
    return torch.tensor([examples[index].label for index in batch.examples], device=device)
