"""Differentiable task loss of a candidate, for training.

Legend: S examples of a batch, C choices, N answer tokens, V vocabulary.

It is what the search minimises, without the dense model's own loss: KL from the dense model, and the right answers'
negative log-likelihood. It is over the answers for `choice`, over the vocabulary at answer positions otherwise. There
every answer token has equal weight, unless `share_N` is given; in the search every answer has.
"""

from collections.abc import Sequence

import torch
from torch.nn import functional as F

from ranksieve.search.space.matrix import DENSE
from ranksieve.workers.forward.batches import Batch
from ranksieve.workers.forward.likelihood import (
    answer_logits,
    choice_scores,
    right_choices,
)
from ranksieve.workers.model.switchable import SwitchableModel
from ranksieve.workers.types.plan import Example


def dense_logits(model: SwitchableModel, batch: Batch) -> torch.Tensor:
    """Return the dense model's logits of the answer tokens, N×V, without gradients.

    The model stays switched to dense.
    """
    model.switch((DENSE,) * len(model.matrices))
    with torch.no_grad():
        return answer_logits(model.model, batch)


def log_likelihoods(
    kind: str, logits_NV: torch.Tensor, examples: Sequence[Example], batch: Batch, max_choices: int
) -> torch.Tensor:
    """Return the log-likelihoods that the loss is made of.

    For `choice` those of the answers that each example of the batch offers, S×C, with -inf for others; else N×V.
    """
    if kind != "choice":
        return logits_NV.log_softmax(dim=1)
    score_SC, offered_SC = choice_scores(logits_NV, examples, batch, max_choices)
    return score_SC.masked_fill(~offered_SC, -torch.inf).log_softmax(dim=1)


def task_losses(
    kind: str,
    dense: torch.Tensor,
    logp: torch.Tensor,
    examples: Sequence[Example],
    batch: Batch,
    kl_weight: float,
    share_N: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return the loss in nats of each example, S, for `choice`; else of each token, N.

    Args:
        kind: Kind of the task.
        dense: The dense model's `log_likelihoods`.
        logp: The candidate's `log_likelihoods`.
        examples: All examples that the batches were made of.
        batch: Positions of their answers.
        kl_weight: Weight of the KL; the likelihood has the rest.
        share_N: Weight of each answer token, not for `choice`; 1 by default.
    """
    loss = kl_weight * kl(dense, logp) + (1 - kl_weight) * right_losses(kind, logp, examples, batch)
    return loss if kind == "choice" or share_N is None else share_N * loss


def right_losses(kind: str, logp: torch.Tensor, examples: Sequence[Example], batch: Batch) -> torch.Tensor:
    """Return the negative log-likelihood of each right answer or token.

    Args:
        kind: Kind of the task.
        logp: The model's `log_likelihoods`.
        examples: All examples that the batches were made of.
        batch: Positions of their answers.

    Returns:
        In nats: S for `choice`, else N.
    """
    right = right_choices(examples, batch, logp.device) if kind == "choice" else batch.token_N
    return F.nll_loss(logp, right, reduction="none")


def token_shares(batch: Batch, max_choices: int) -> torch.Tensor:
    """Return the share of each answer token in its example, N.

    With these weights every example counts the same, however long its answer.
    """
    owner_N = batch.slot_N // max_choices
    return 1.0 / torch.bincount(owner_N)[owner_N]


def kl(dense_logp: torch.Tensor, logp: torch.Tensor) -> torch.Tensor:
    """Return the KL divergence of every row from the dense model's.

    Outcomes of probability 0 in the dense model add nothing.
    """
    ruled_out = dense_logp.isneginf()
    return (dense_logp.exp() * (dense_logp - logp).masked_fill(ruled_out, 0.0)).sum(dim=1)
