"""What a candidate loses on the task, differentiably: the loss that training and reactions descend on.

Legend: S examples of a batch, C choices, N answer tokens, V vocabulary.

It is what the search minimises, but for what the dense model loses: KL from the dense model, and the right answers'
negative log-likelihood. Over the answers for `choice`, over the vocabulary at answer positions otherwise; there every
answer token counts alike, unless `share_N` says otherwise, where in the search every answer does.
"""

import math
from collections.abc import Sequence

import torch
from torch.nn import functional as F

from ranksieve.search.space.matrix import DENSE
from ranksieve.workers.forward.batches import Batch, make_batches
from ranksieve.workers.forward.likelihood import (
    answer_logits,
    choice_scores,
    right_choices,
    right_share,
    slot_log_likelihoods,
)
from ranksieve.workers.model.switchable import SwitchableModel
from ranksieve.workers.types.plan import Example

QUALITIES = 2
"""Version of `qualities`."""


def dense_logits(model: SwitchableModel, batch: Batch) -> torch.Tensor:
    """The dense model's logits that predict the answer tokens, N×V; the model is left dense, no way back is kept."""
    model.switch((DENSE,) * len(model.matrices))
    with torch.no_grad():
        return answer_logits(model.model, batch)


def log_likelihoods(
    kind: str, logits_NV: torch.Tensor, examples: Sequence[Example], batch: Batch, max_choices: int
) -> torch.Tensor:
    """What the loss is made of: of the answers that each example of the batch offers, S×C, for `choice`; else N×V.

    What was not offered is -inf.
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
    """Of each of a batch's examples, S, for `choice`, of each answer token, N, otherwise, in nats.

    Args:
        kind: Of the task.
        dense: The dense model's `log_likelihoods`.
        logp: The candidate's.
        examples: All that the batch was made of.
        batch: Where their answers are.
        kl_weight: Of the KL; the rest is of the likelihood.
        share_N: Weight of each answer token, but for `choice`; one, where left out.
    """
    right = right_choices(examples, batch, logp.device) if kind == "choice" else batch.token_N
    loss = kl_weight * kl(dense, logp) + (1 - kl_weight) * F.nll_loss(logp, right, reduction="none")
    return loss if kind == "choice" or share_N is None else share_N * loss


@torch.no_grad()
def example_losses(
    model: SwitchableModel,
    ranks: Sequence[int],
    kind: str,
    examples: Sequence[Example],
    batch_tokens: int,
    kl_weight: float,
) -> torch.Tensor:
    """Of a candidate, on each of E examples, float64, in nats; not finite where its logits are not."""
    max_choices = max(example.choices for example in examples)
    loss_E = torch.zeros(len(examples), dtype=torch.float64)
    for batch in make_batches(examples, max_choices, batch_tokens):
        here = batch.to(model.model.device)
        dense = log_likelihoods(kind, dense_logits(model, here), examples, here, max_choices)
        model.switch(ranks)
        logp = log_likelihoods(kind, answer_logits(model.model, here), examples, here, max_choices)
        losses = task_losses(kind, dense, logp, examples, here, kl_weight)
        of = torch.tensor(batch.examples) if kind == "choice" else batch.slot_N // max_choices
        loss_E.index_add_(0, of, losses.double().cpu())
    return loss_E


@torch.no_grad()
def mean_quality(
    model: SwitchableModel, ranks: Sequence[int], kind: str, examples: Sequence[Example], batch_tokens: int
) -> float:
    """What a candidate scores per example, see `qualities`; NaN where its logits are not finite."""
    max_choices, total = max(example.choices for example in examples), 0.0
    model.switch(ranks)
    for batch in make_batches(examples, max_choices, batch_tokens):
        here = batch.to(model.model.device)
        logits_NV = answer_logits(model.model, here)
        if not logits_NV.isfinite().all():
            return math.nan
        logp = log_likelihoods(kind, logits_NV, examples, here, max_choices)
        total += float(qualities(kind, logp, examples, here, max_choices).sum())
    return total / len(examples)


def qualities(
    kind: str, logp: torch.Tensor, examples: Sequence[Example], batch: Batch, max_choices: int
) -> torch.Tensor:
    """What each of the batch's examples scores by a model's `log_likelihoods`, S, see `types.scores.Scores.quality`.

    NaN for `generate`: its answers would have to be written.
    """
    if kind == "choice":
        return right_share(logp, right_choices(examples, batch, logp.device))
    if kind == "lm":
        return slot_log_likelihoods(logp, batch, len(examples), max_choices)[list(batch.examples), 0].double()
    return torch.full((len(batch.examples),), torch.nan, dtype=torch.float64)


def kl(dense_logp: torch.Tensor, logp: torch.Tensor) -> torch.Tensor:
    """KL divergence of every row from the dense model's; an outcome that it rules out adds nothing."""
    ruled_out = dense_logp.isneginf()
    return (dense_logp.exp() * (dense_logp - logp).masked_fill(ruled_out, 0.0)).sum(dim=1)
