"""Differentiable parts of the task loss, for training and tuning.

Legend: S examples of a batch, C choices, N answer tokens, V vocabulary.

The loss is over the answers for `choice`, over the vocabulary at answer positions otherwise.
"""

from collections.abc import Sequence

import torch
from torch.nn import functional as F

from ranksieve.workers.forward.batches import Batch
from ranksieve.workers.forward.likelihood import choice_scores, right_choices
from ranksieve.workers.types.plan import Example


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
