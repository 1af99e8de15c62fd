"""Log-likelihoods of a batch's answers.

Legend: B rows, L padded length, H hidden size, N answer tokens, Q positions that are read, V vocabulary, E examples,
S those of a batch, C choices, U different tokens.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from ranksieve.workers.forward.batches import Batch
from ranksieve.workers.types.plan import Example


@dataclass(frozen=True, kw_only=True, slots=True)
class Predicted:
    """Logits of some examples' answers, and the written answers, if requested.

    `logits_NV`, float32, predict `token_N`, answer after answer in the order of `examples`, like the `texts`. `slot_N`:
    answer that each token belongs to, see `Batch`.
    """

    examples: tuple[int, ...]
    logits_NV: torch.Tensor
    token_N: torch.Tensor
    slot_N: torch.Tensor
    texts: tuple[str | None, ...]


def answer_logits(model: PreTrainedModel, batch: Batch) -> torch.Tensor:
    """Run the model and return the logits of each answer token, N×V, float32."""
    exact_N = batch.token_N if batch.compared else None
    return logits_at(model, batch.row_N, batch.position_N, exact_N, input_ids=batch.ids_BL, use_cache=False)


def logits_at(
    model: PreTrainedModel,
    row_N: torch.Tensor,
    position_N: torch.Tensor,
    exact_N: torch.Tensor | None = None,
    **inputs: Any,
) -> torch.Tensor:
    """Run the model and return its logits at some positions, N×V, float32.

    Each distinct position goes through the output head once, others not at all: on a small model the head costs as much
    as several blocks.

    Args:
        model: Any causal one.
        row_N: Rows of the inputs.
        position_N: Positions in those rows.
        exact_N: Tokens whose logits the output head computes in float32. In bfloat16 the logits of one two-answer
            record in fifty are equal.
        inputs: Arguments of the model's forward.
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
    with ExitStack() as hooks:
        if head is not None:
            hooks.enter_context(head.register_forward_pre_hook(narrow))
        if exact_N is not None and isinstance(head, nn.Linear) and head.weight.dtype != torch.float32:
            hooks.enter_context(head.register_forward_hook(_exact_for(torch.unique(exact_N))))
        logits: torch.Tensor = model(**inputs).logits
    logits_QV = logits[0] if narrowed else logits[row_Q, position_Q]
    # not `logits_QV[place_N]`: answers share places, and its gradients are summed in any order
    return logits_QV.index_select(0, place_N).float()


def _exact_for(
    token_U: torch.Tensor,
) -> Callable[[nn.Linear, tuple[torch.Tensor], torch.Tensor], torch.Tensor]:
    """Return a hook that computes a head's logits of some tokens in float32."""

    def compute(head: nn.Linear, args: tuple[torch.Tensor], logits_BLV: torch.Tensor) -> torch.Tensor:
        (hidden_BLH,) = args
        bias_U = None if head.bias is None else head.bias[token_U].float()
        exact_BLU = F.linear(hidden_BLH.float(), head.weight[token_U].float(), bias_U)
        return logits_BLV.float().index_copy(-1, token_U, exact_BLU)

    return compute


def slot_log_likelihoods(
    logits_NV: torch.Tensor, batch: Batch | Predicted, examples: int, max_choices: int
) -> torch.Tensor:
    """Sum token log-probabilities into a log-likelihood per answer, E×C.

    Answers that are not in the batch are 0.
    """
    logp_N = logits_NV.log_softmax(dim=1).gather(1, batch.token_N[:, None])[:, 0]
    sums = torch.zeros(examples * max_choices, dtype=logp_N.dtype, device=logp_N.device)
    return sums.index_add(0, batch.slot_N, logp_N).view(examples, max_choices)


def choice_scores(
    logits_NV: torch.Tensor, examples: Sequence[Example], batch: Batch, max_choices: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the log-likelihood of every answer of the batch's examples, S×C.

    Also returns which of the choices were offered.
    """
    score_SC = slot_log_likelihoods(logits_NV, batch, len(examples), max_choices)[list(batch.examples)]
    offered_S1 = torch.tensor([[examples[index].choices] for index in batch.examples])
    return score_SC, (torch.arange(max_choices)[None] < offered_S1).to(score_SC.device)


def right_share(score_SC: torch.Tensor, label_S: torch.Tensor) -> torch.Tensor:
    """Return each example's score, S: 1 if its label is the likeliest choice, else 0.

    Among n equally likely choices the label scores 1/n. If the first choice won, scores would depend on the order of
    the choices.

    Args:
        score_SC: Log-likelihoods, -inf for choices that are not offered.
        label_S: The right choices.
    """
    best_SC = score_SC == score_SC.amax(dim=1, keepdim=True)
    return best_SC.gather(1, label_S[:, None])[:, 0].double() / best_SC.sum(dim=1)


def right_choices(examples: Sequence[Example], batch: Batch, device: torch.device) -> torch.Tensor:
    """Return the label of each of the batch's examples, S."""
    return torch.tensor([examples[index].label for index in batch.examples], device=device)
