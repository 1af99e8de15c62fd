"""From a batch to the log-likelihood of its answers.

Legend: B rows, L padded length, P read positions, N answer tokens, V vocabulary, E examples, S those of a batch,
C choices.
"""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from workers.batches import Batch
from workers.plan import Example


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
    """Runs the model and returns the logits that predict each answer token, N×V, float32.

    Only the read positions go through the output head, where the model's forward allows it: on a small model
    the head costs as much as several blocks.
    """
    options = {"logits_to_keep": batch.positions_P} if takes(type(model), "logits_to_keep") else {}
    logits: torch.Tensor = model(input_ids=batch.ids_BL, use_cache=False, **options).logits
    columns_N = batch.column_N if options else batch.positions_P[batch.column_N]
    return logits[batch.row_N, columns_N].float()


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


def right_choices(examples: Sequence[Example], batch: Batch, device: torch.device) -> torch.Tensor:
    """The label of each of the batch's examples, S."""
    return torch.tensor([examples[index].label for index in batch.examples], device=device)


def takes(model_class: type[torch.nn.Module], argument: str) -> bool:
    """Whether the model's forward can be told so: the positions, or those that go through the output head."""
    return argument in inspect.signature(model_class.forward).parameters
