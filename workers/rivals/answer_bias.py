"""Bias of the output head for the tokens of fixed answers.

Every model favours some of the answers, whatever it reads (arXiv 2102.09690). A bias b of the output head corrects for
that. It has one number for each token of the answers and is fitted to the right answers by maximum a posteriori, with n
examples

    min  1/n ( Σ -log P(label | b) + ½ ‖b‖² )        log pᵇ(token) = log p(token) + b_token - log Σ_v p(v) e^(b_v)

where v runs over the whole vocabulary and b is zero but for those tokens. The standard normal prior weighs about as
much as a handful of records; it keeps answers possible that are never the right one.

Legend: E examples, C choices, N answer tokens, U different ones among them, Q positions that are read, V vocabulary.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from ranksieve.search.errors import ScoringError
from ranksieve.workers.forward.batches import make_batches
from ranksieve.workers.forward.likelihood import logits_read
from ranksieve.workers.types.plan import Example

MOST_STEPS = 200

MOST_NUMBERS = 10_000_000
"""Most likelihoods that a bias is fitted to, float64; with more there is no bias."""


def fixed_answers(examples: Sequence[Example]) -> tuple[int, ...]:
    """Return the different tokens of the answers to choose from, sorted.

    Empty without choices, and if examples spell a choice of the same number differently.
    """
    spelt: dict[int, tuple[int, ...]] = {}
    for example in examples:
        for span in (span for row in example.rows for span in row.spans):
            if example.choices < 2 or spelt.setdefault(span.choice, span.ids) != span.ids:
                return ()
    return tuple(sorted({token for ids in spelt.values() for token in ids}))


def fit_answer_bias(
    logp_QU: torch.Tensor,
    read_N: torch.Tensor,
    place_N: torch.Tensor,
    slot_N: torch.Tensor,
    labels_E: torch.Tensor,
    offered_EC: torch.Tensor,
) -> torch.Tensor:
    """Fit the bias of each token, U, float64.

    Its mean is zero if every answer is one token.

    Args:
        logp_QU: Log-likelihood of each token at each position that is read.
        read_N: Index among these positions of each answer token.
        place_N: Index among the U tokens of each answer token.
        slot_N: Answer of each answer token, `example * C + choice`.
        labels_E: The right choices.
        offered_EC: Whether an example has a choice.
    """
    p_QU, own_N = logp_QU.double().exp(), logp_QU.double()[read_N, place_N]
    bias_U = torch.zeros(logp_QU.shape[1], dtype=torch.float64, requires_grad=True)
    solver = torch.optim.LBFGS([bias_U], max_iter=MOST_STEPS, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        solver.zero_grad()
        with torch.enable_grad():
            logp_N = own_N + bias_U[place_N] - (p_QU @ bias_U.expm1()).log1p()[read_N]
            score_EC = torch.zeros(offered_EC.numel(), dtype=torch.float64).index_add(0, slot_N, logp_N)
            score_EC = score_EC.view_as(offered_EC).masked_fill(~offered_EC, -torch.inf)
            total = F.cross_entropy(score_EC, labels_E, reduction="sum") + bias_U.square().sum() / 2
            mean: torch.Tensor = total / len(labels_E)
            mean.backward()  # type: ignore[no-untyped-call]
        return mean

    solver.step(loss)  # type: ignore[no-untyped-call]
    return bias_U.detach()


def add_answer_bias(model: PreTrainedModel, examples: Sequence[Example], batch_tokens: int) -> bool:
    """Give the output head a bias for the tokens of fixed answers.

    Args:
        model: Changed in place.
        examples: Examples whose labels are the right answers.
        batch_tokens: Padded tokens per forward pass.

    Returns:
        Whether the head was given a bias. It is not if the answers vary between records, if the model changes the
        logits after the head, or if the fit would need more than `MOST_NUMBERS` likelihoods.

    Raises:
        ScoringError: The logits are not finite.
    """
    tokens, head = fixed_answers(examples), model.get_output_embeddings()  # type: ignore[no-untyped-call]
    read = sum(row.reads for example in examples for row in example.rows)
    if not tokens or not isinstance(head, nn.Linear) or len(tokens) * read > MOST_NUMBERS:
        return False
    token_U = torch.tensor(tokens, device=head.weight.device)
    choices = max(example.choices for example in examples)
    batches = make_batches(examples, choices, batch_tokens)
    head_ranges: list[Any] = []
    logp_QU: list[torch.Tensor] = []
    read_N: list[torch.Tensor] = []
    with (
        torch.no_grad(),
        head.register_forward_hook(lambda _, __, logits: head_ranges.append(logits.float().aminmax())),
    ):
        for batch in batches:
            here = batch.to(model.device)
            logits_QV, place_N = logits_read(
                model, here.row_N, here.position_N, input_ids=here.ids_BL, use_cache=False
            )
            if logits_QV.isnan().any():  # NaN is not equal to itself
                raise ScoringError("the dense model's logits are not finite")
            if [logits_QV.float().aminmax()] != head_ranges:
                return False  # the head is not run, or its logits are scaled or capped: a bias would not fit
            head_ranges.clear()
            read_N.append(place_N.cpu() + sum(map(len, logp_QU)))
            logp_QU.append(logits_QV.float().log_softmax(dim=1)[:, token_U].cpu())
    bias_U = fit_answer_bias(
        torch.cat(logp_QU),
        torch.cat(read_N),
        torch.searchsorted(token_U.cpu(), torch.cat([batch.token_N for batch in batches])),
        torch.cat([batch.slot_N for batch in batches]),
        torch.tensor([example.label for example in examples]),
        torch.arange(choices) < torch.tensor([[example.choices] for example in examples]),
    )
    if not bias_U.isfinite().all():
        raise ScoringError("the dense model's logits are not finite")
    own_V = torch.zeros(len(head.weight)) if head.bias is None else head.bias.cpu()
    bias_V = own_V.double().index_add(0, token_U.cpu(), bias_U).to(head.weight)
    head.bias = nn.Parameter(bias_V, requires_grad=False)
    return True
