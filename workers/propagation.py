"""Error propagation: the factors of all matrices made anew, block by block, from what they read in a smaller model.

A matrix deep in a compressed model reads x̃, not the x that its factors were made for, and W x̃ is not what the dense
model has there. The candidate is walked through in the order in which it runs, so that a matrix sees what all before it
have lost after their own factors were made anew. What it should return is W w, with

    w = ALPHA·x + (1 - ALPHA)·x̃

half of the way back to the dense model: what x̃ does not determine cannot be made up for. How factors come of that is
told by `workers.projections.regressed`. Means are taken over the flows of all candidates and, for each with the weight
`DENSE_WEIGHT`, that of the dense model, where w = x̃ = x. The activations of a compressed model lie in few directions,
and factors that know those alone are worthless for every model whose activations lie in others: the next larger one.

What few tokens do not tell is filled in by inputs that are wanted as they are: independent ones, as large as those that
were seen, of the weight (D/T)², which did well with few tokens as with many. There a matrix stays what it was.

Factors stay nested, and serve every size; they are best at those near the candidate's. Two flows of hidden states are
taken from block to block; no more than one block's activations is ever held.

Source: layer-wise updates with the compressed model's inputs, arXiv 2403.07378 (SVD-LLM), here for nested factors in
the metric of the task loss, with both flows in target and regressors.

Legend: T real tokens, D input width.
"""

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import torch
from numpy.typing import NDArray

from search.errors import ScoringError
from search.matrix import DENSE
from search.prices import Energies
from workers.batches import make_batches
from workers.flows import Flow, Group, blocks_of, side_by_side
from workers.grams import GramSum, multiplied_as
from workers.lowrank import SwitchableModel, switchable_module
from workers.plan import Example
from workers.projections import Factors, regressed

ALPHA = 0.5
DENSE_WEIGHT = 0.3

MOST_EXAMPLES, MOST_TOKENS = 512, 65_536
"""Of the calibration split at most; flows are kept of all of them."""

JUDGED, MOST_JUDGES = 0.25, 256
"""Of the calibration split this share, or so many records, tells whether new factors are better."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PropagatedBlock:
    """What has come of one block, `done` of `total`: the energies of its matrices, by name."""

    done: int
    total: int
    energies: Mapping[str, NDArray[np.floating]]


def split_for_propagation(calibration: Sequence[Example]) -> tuple[Sequence[Example], Sequence[Example]]:
    """The first records, which errors are propagated on, and the last, which tell whether it has helped."""
    judges = min(max(1, round(JUDGED * len(calibration))), MOST_JUDGES)
    first = calibration[: max(1, len(calibration) - judges)][:MOST_EXAMPLES]
    tokens = list(accumulate(sum(len(row.ids) for row in example.rows) for example in first))
    return first[: max(1, bisect_right(tokens, MOST_TOKENS))], calibration[-judges:]


@torch.no_grad()
def propagate(
    model: SwitchableModel,
    candidates: Sequence[Sequence[int]],
    energies: Energies,
    examples: Sequence[Example],
    batch_tokens: int,
) -> Iterator[PropagatedBlock]:
    """Makes the `task` factors of a model anew, in place, for what its matrices read in one of its candidates.

    Those that no candidate runs stay what they were; so do those that read something else than one vector for each
    token, as some experts do.

    Args:
        model: Runs at the candidates' ranks and dense meanwhile.
        candidates: Ranks of each.
        energies: Of the model's matrices, per token.
        examples: Calibration examples.
        batch_tokens: Padded tokens per forward pass.

    Yields:
        Each block's energies as soon as its factors are there, in model order.

    Raises:
        ScoringError: An activation is not finite.
    """
    matrices = model.matrices
    batches = make_batches(examples, max(example.choices for example in examples), batch_tokens)
    batches = [batch.to(model.model.device) for batch in batches]
    blocks = blocks_of(model.model, matrices[0])
    smaller = [Flow(model, ranks, blocks, batches) for ranks in candidates]
    dense = Flow(model, [DENSE] * len(matrices), blocks, batches)
    names = [[matrix.name for matrix in matrices if matrix.layer == index] for index in range(len(blocks))]
    energy_of = {matrix.name: energy_K for matrix, energy_K in zip(matrices, energies, strict=True)}
    for index, groups in enumerate(side_by_side(smaller, dense, names)):
        made = {name: energy_of[name] for name in names[index]}
        for group in groups:
            made |= _renew_group_(model, group, energy_of)
        yield PropagatedBlock(done=index + 1, total=len(blocks), energies=made)


def _renew_group_(
    model: SwitchableModel, group: Group, energy_of: Mapping[str, NDArray[np.floating]]
) -> dict[str, NDArray[np.floating]]:
    """Gives the matrices of a group their new factors; returns the energies of these, by name."""
    if (moments := _moments(group)) is None:
        return {}
    worth = [name for name in group.names if energy_of[name].any()]
    return {name: _renew_(model, name, energy_of[name], *moments) for name in worth}


def _moments(group: Group) -> tuple[torch.Tensor, torch.Tensor] | None:
    """E[w x̃ᵀ] and E[x̃ x̃ᵀ] over all flows, D×D, float64; none where nothing is read."""
    mixed_DD: torch.Tensor | None = None
    for x_TD, dense_TD in group:
        if mixed_DD is None:
            width, device = x_TD.shape[1], x_TD.device
            mixed_DD = torch.zeros(width, width, dtype=torch.float64, device=device)
            own, of_dense, tokens = GramSum.zeros(width, device), GramSum.zeros(width, device), 0
        with multiplied_as(x_TD.dtype):
            mixed_DD += dense_TD.float().T @ x_TD.float()
        squares = own.add_rows_(x_TD) + of_dense.add_rows_(dense_TD)
        if not squares.isfinite():
            raise ScoringError(
                f"what {group.names[0]} reads in a smaller model or in the dense one is not finite; "
                "try model.dtype: float32, or projection.propagated_shares: [], which does without"
            )
        tokens += len(x_TD)
    if mixed_DD is None:
        return None
    weight = (1 + DENSE_WEIGHT) * tokens
    dense_P = DENSE_WEIGHT * of_dense.panels_P
    cross_DD = GramSum(own.width, (1 - ALPHA) * own.panels_P + dense_P).whole_KK().div_(weight)
    cross_DD += mixed_DD.mul_(ALPHA / weight)
    del mixed_DD
    gram_DD = GramSum(own.width, own.panels_P + dense_P).whole_KK().div_(weight)
    unknown_D = gram_DD.diagonal() * (own.width * len(group.places) / tokens) ** 2
    cross_DD.diagonal().add_(unknown_D)
    gram_DD.diagonal().add_(unknown_D)
    return (cross_DD, gram_DD) if gram_DD.any() else None


def _renew_(
    model: SwitchableModel,
    name: str,
    energy_K: NDArray[np.floating],
    cross_DD: torch.Tensor,
    gram_DD: torch.Tensor,
) -> NDArray[np.floating]:
    """Gives a matrix its new factors; returns their energies."""
    module = switchable_module(model.model, name)
    old = Factors(
        left_RO=module.left_RO,
        right_RD=module.right_RD,
        energy_K=torch.from_numpy(energy_K).to(gram_DD.device),
    )
    new = regressed(old, cross_DD, gram_DD)
    module.left_RO = new.left_RO.to(module.left_RO.dtype)
    module.right_RD = new.right_RD.to(module.right_RD.dtype)
    energies: NDArray[np.floating] = new.energy_K.cpu().numpy()
    return energies
