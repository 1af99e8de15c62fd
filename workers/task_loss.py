"""What a candidate loses on the task, differentiably: the loss that training and reactions descend on.

Legend: S examples of a batch, C choices, N answer tokens, V vocabulary.

It is what the search minimises, but for what the dense model loses: KL from the dense model, and the right answers'
negative log-likelihood. Over the answers for `choice`, over the vocabulary at answer positions otherwise.
"""

from collections.abc import Sequence

import torch
from torch.nn import functional as F

from search.matrix import DENSE
from workers.batches import Batch
from workers.likelihood import answer_logits, choice_scores, right_choices
from workers.lowrank import SwitchableModel
from workers.plan import Example


def logits_of_both(
    model: SwitchableModel, ranks: Sequence[int], batch: Batch
) -> tuple[torch.Tensor, torch.Tensor]:
    """The logits that predict the answer tokens, N×V: the dense model's, without a way back, and the candidate's.

    The model is left at the candidate's ranks.
    """
    with torch.no_grad():
        model.switch((DENSE,) * len(ranks))
        dense_NV = answer_logits(model.model, batch)
    model.switch(ranks)
    return dense_NV, answer_logits(model.model, batch)


def task_loss(
    kind: str,
    dense_NV: torch.Tensor,
    logits_NV: torch.Tensor,
    examples: Sequence[Example],
    batch: Batch,
    max_choices: int,
    kl_weight: float,
    share_N: torch.Tensor | None = None,
) -> torch.Tensor:
    """The sum over a batch's examples, in nats.

    Args:
        kind: Of the task.
        dense_NV: The dense model's logits that predict the answer tokens.
        logits_NV: The candidate's.
        examples: All that the batch was made of.
        batch: Where their answers are.
        max_choices: As given to `make_batches`.
        kl_weight: Of the KL; the rest is of the likelihood.
        share_N: Weight of each answer token, but for `choice`; one, where left out.
    """
    if kind == "choice":
        labels_S = right_choices(examples, batch, logits_NV.device)
        dense_SC, logp_SC = (
            _choice_log_likelihoods(values_NV, examples, batch, max_choices)
            for values_NV in (dense_NV, logits_NV)
        )
        kl_S, nll_S = kl(dense_SC, logp_SC), F.nll_loss(logp_SC, labels_S, reduction="none")
        return (kl_weight * kl_S + (1 - kl_weight) * nll_S).sum()
    kl_N = kl(dense_NV.log_softmax(dim=1), logits_NV.log_softmax(dim=1))
    nll_N = F.cross_entropy(logits_NV, batch.token_N, reduction="none")
    loss_N = kl_weight * kl_N + (1 - kl_weight) * nll_N
    return (loss_N if share_N is None else share_N * loss_N).sum()


def kl(dense_logp: torch.Tensor, logp: torch.Tensor) -> torch.Tensor:
    """KL divergence of every row from the dense model's; an outcome that it rules out adds nothing."""
    ruled_out = dense_logp.isneginf()
    return (dense_logp.exp() * (dense_logp - logp).masked_fill(ruled_out, 0.0)).sum(dim=1)


def _choice_log_likelihoods(
    logits_NV: torch.Tensor, examples: Sequence[Example], batch: Batch, max_choices: int
) -> torch.Tensor:
    """Normalised over the choices of each example; what was not offered is -inf. S×C."""
    score_SC, offered_SC = choice_scores(logits_NV, examples, batch, max_choices)
    return score_SC.masked_fill(~offered_SC, -torch.inf).log_softmax(dim=1)
