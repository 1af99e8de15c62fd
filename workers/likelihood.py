"""From a batch to the log-likelihood of its answers.

Legend: B rows, L padded length, P read positions, N answer tokens, V vocabulary, E examples, C choices.
"""

import inspect

import torch
from transformers import PreTrainedModel

from workers.batches import Batch


def answer_logits(model: PreTrainedModel, batch: Batch) -> torch.Tensor:
    """Runs the model and returns the logits that predict each answer token, N×V, float32.

    Only the read positions go through the output head, where the model's forward allows it: on a small model
    the head costs as much as several blocks.
    """
    options = {"logits_to_keep": batch.positions_P} if _keeps_logits(type(model)) else {}
    logits: torch.Tensor = model(input_ids=batch.ids_BL, use_cache=False, **options).logits
    columns_N = batch.column_N if options else batch.positions_P[batch.column_N]
    return logits[batch.row_N, columns_N].float()


def slot_log_likelihoods(
    logits_NV: torch.Tensor, batch: Batch, examples: int, max_choices: int
) -> torch.Tensor:
    """Sums token log-probabilities into one log-likelihood per answer, E×C; answers not in the batch are 0."""
    logp_N = logits_NV.log_softmax(dim=1).gather(1, batch.token_N[:, None])[:, 0]
    sums = torch.zeros(examples * max_choices, dtype=logp_N.dtype, device=logp_N.device)
    return sums.index_add(0, batch.slot_N, logp_N).view(examples, max_choices)


def _keeps_logits(model_class: type[PreTrainedModel]) -> bool:
    return "logits_to_keep" in inspect.signature(model_class.forward).parameters
