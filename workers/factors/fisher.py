"""Loss whose gradients have the second moment of the true Fisher information.

Legend: S examples of a batch, C choices, N answer tokens, V vocabulary, J the Jacobian from outputs to logits.

The true Fisher information is that of labels drawn from the model's own distribution p, Jᵀ(diag(p) - p pᵀ)J. It is the
curvature of the KL divergence to the dense model, whatever the right answers are (arXiv 1503.05671, section 5). The
empirical one, of the right answers, misses answers that a model is sure of and right about (arXiv 1905.12558).
"""

from collections.abc import Sequence

import torch

from ranksieve.workers.factors.linalg import eigh
from ranksieve.workers.forward.batches import Batch
from ranksieve.workers.forward.likelihood import choice_scores
from ranksieve.workers.types.plan import Example


def loss_of(
    kind: str,
    logits_NV: torch.Tensor,
    examples: Sequence[Example],
    batch: Batch,
    max_choices: int,
    generator: torch.Generator,
) -> torch.Tensor:
    """Sum the loss over a batch.

    For `choice` it is over the answers, otherwise over the vocabulary at answer positions.

    Args:
        kind: Kind of the task.
        logits_NV: Logits that predict the batch's answer tokens.
        examples: All examples that the batches were made of.
        batch: Positions of their answers.
        max_choices: Argument of `make_batches`.
        generator: Draws the probes.
    """
    if kind == "choice":
        return _choice_probe(*choice_scores(logits_NV, examples, batch, max_choices), generator)
    return _token_probe(logits_NV, generator)


def answers_of(kind: str, batch: Batch) -> int:
    """Count the independent gradients of a batch's loss.

    One per example for `choice`, one per answer token otherwise.
    """
    return len(batch.examples) if kind == "choice" else len(batch.token_N)


def _choice_probe(
    score_SC: torch.Tensor, offered_SC: torch.Tensor, generator: torch.Generator
) -> torch.Tensor:
    """Weight the answers' scores by A ε, with A Aᵀ = diag(p) - p pᵀ, random signs ε.

    Labels drawn from p would give the same mean. With two choices A is one column, so that this is exact.
    """
    belief_SC = score_SC.detach().double().masked_fill(~offered_SC, -torch.inf).softmax(dim=1)
    fisher_SCC = torch.diag_embed(belief_SC) - belief_SC[:, :, None] * belief_SC[:, None, :]
    values_SC, vectors_SCC = eigh(fisher_SCC)
    signs_SC = _signs(values_SC.shape, generator).to(values_SC)
    probe_SC = (vectors_SCC * (values_SC.clamp_min(0).sqrt() * signs_SC)[:, None, :]).sum(dim=2)
    loss: torch.Tensor = (probe_SC.to(score_SC.dtype).masked_fill(~offered_SC, 0.0) * score_SC).sum()
    return loss


def _token_probe(logits_NV: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Weight the logits by A ε, with A = diag(√p) - p √pᵀ and random signs ε.

    Thus A Aᵀ = diag(p) - p pᵀ. Labels drawn from p would give the same mean; but nearly all labels of a sure model
    have no gradient, and a few have a huge one.
    """
    root_NV = logits_NV.detach().softmax(dim=1).sqrt_()
    probe_NV = root_NV * _signs(root_NV.shape, generator).to(root_NV.device)
    probe_NV -= root_NV.square_() * probe_NV.sum(dim=1, keepdim=True)
    return (probe_NV * logits_NV).sum()


def _signs(shape: torch.Size, generator: torch.Generator) -> torch.Tensor:
    """Draw signs -1 and 1 with equal odds, on the generator's device.

    There may be as many as a batch has logits.
    """
    signs = torch.randint(0, 2, shape, generator=generator, device=generator.device, dtype=torch.int8)
    return signs.mul_(2).sub_(1)
