"""Error propagation: factors renewed block by block for a smaller model's inputs.

A matrix deep in a compressed model reads x̃, not the x that its factors were made for, and W x̃ differs from the dense
model's output. The matrices are renewed in the order in which the candidate runs them, so that each sees the losses of
all renewed matrices before it. Its target is W w, with

    w = ALPHA·x + (1 - ALPHA)·x̃

half of the way back to the dense model: what x̃ does not determine cannot be restored. `decomposition.regressed` makes
the factors. Means are taken over the flows of all candidates and, for each with the weight `DENSE_WEIGHT`, over that of
the dense model, where w = x̃ = x. The activations of a compressed model lie in few directions, and factors fitted to
those alone are worthless for every model with activations in others, such as the next larger one.

Directions that few tokens do not determine are filled in by independent inputs whose targets are themselves, as large
as the inputs seen, with the weight (D/T)², which did well with few tokens as with many. There a matrix stays
unchanged.

Behind the last block, if the answers to choose from are fixed, the output head gets a bias for their tokens, one for
all candidates but the dense model (`factors.answer_bias`): a model close to the dense one has its preferences, too.

Factors stay nested, and serve every size; they are best at those near the candidate's. Two flows of hidden states are
taken from block to block; at most one block's activations are held.

Source: layer-wise updates with the compressed model's inputs, arXiv 2403.07378 (SVD-LLM), here for nested factors in
the metric of the task loss, with both flows in target and regressors.

Legend: T real tokens, D input width.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import torch
from numpy.typing import NDArray

from ranksieve.search.errors import ScoringError
from ranksieve.search.evolution.schedules import SEED_SHARES, smallest_seed_share
from ranksieve.search.space.matrix import DENSE
from ranksieve.search.space.objectives import MaxDrop
from ranksieve.search.space.prices import Energies
from ranksieve.workers.factors.answer_bias import answer_bias_of
from ranksieve.workers.factors.decomposition import Factors, regressed
from ranksieve.workers.factors.grams import GramSum, multiplied_as
from ranksieve.workers.forward.blockwise import Group, flows_of, side_by_side
from ranksieve.workers.forward.loss import mean_quality
from ranksieve.workers.model.switchable import SwitchableModel, switchable_module
from ranksieve.workers.types.plan import Example

ALPHA = 0.5
DENSE_WEIGHT = 0.3

MOST_EXAMPLES, MOST_TOKENS = 512, 65_536
"""Most calibration examples and tokens; the flows hold all of them."""

JUDGED, MOST_JUDGES = 0.25, 256
"""Share of the calibration split, and most records, that judge whether new factors are better."""

JUDGING = 3
"""Version of the judging."""

PropagatedShares = tuple[float, ...] | MaxDrop
"""Shares of the models in which errors are propagated; a drop: shares around the smallest model within it."""

AROUND = (0.4, 0.8)
"""Multiples of the smallest Lagrangian model within a drop; later steps reach half of it and more."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PropagatedBlock:
    """Result of one block, `done` of `total`: the energies of its matrices, by name.

    The output head counts as the last block, without energies.
    """

    done: int
    total: int
    energies: Mapping[str, NDArray[np.floating]]


def makers_of(calibration: int) -> int:
    """Return how many calibration records may make factors.

    The later ones judge whether new factors are better. A single record does both.
    """
    return max(1, calibration - _judges_of(calibration))


def _judges_of(calibration: int) -> int:
    return min(max(1, round(JUDGED * calibration)), MOST_JUDGES)


def split_for_propagation(calibration: Sequence[Example]) -> tuple[Sequence[Example], Sequence[Example]]:
    """Split the records into those for propagation and the last ones, which judge it."""
    judges = _judges_of(len(calibration))
    first = calibration[: makers_of(len(calibration))][:MOST_EXAMPLES]
    tokens = list(accumulate(sum(len(row.ids) for row in example.rows) for example in first))
    return first[: max(1, bisect_right(tokens, MOST_TOKENS))], calibration[-judges:]


def models_of(shares: PropagatedShares) -> int:
    """Return the number of models in which errors are propagated."""
    return len(AROUND) if isinstance(shares, MaxDrop) else len(shares)


def shares_within(
    objective: MaxDrop,
    model: SwitchableModel,
    ranks_of: Callable[[float], Sequence[int]],
    examples: Sequence[Example],
    batch_tokens: int,
) -> tuple[float, ...]:
    """Return shares around the smallest Lagrangian model within a drop of `choice`.

    Args:
        objective: The drop.
        model: Its ranks change meanwhile.
        ranks_of: Ranks of the Lagrangian model of a share.
        examples: Examples that the drop is measured on.
        batch_tokens: Padded tokens per forward pass.
    """

    def right(ranks: Sequence[int]) -> float:
        return mean_quality(model, ranks, "choice", examples, batch_tokens)

    least = right([DENSE] * len(model.matrices)) - objective.points / 100
    smallest = smallest_seed_share(SEED_SHARES, lambda share: right(ranks_of(share)) >= least)
    return tuple(round(smallest * factor, 6) for factor in AROUND)


@torch.no_grad()
def propagate(
    model: SwitchableModel,
    candidates: Sequence[Sequence[int]],
    energies: Energies,
    examples: Sequence[Example],
    batch_tokens: int,
    *,
    answer_bias: bool = True,
) -> Iterator[PropagatedBlock]:
    """Renew a model's `task` factors, in place, for inputs in some candidates.

    Factors of matrices that no candidate runs stay unchanged, and so do those of matrices that do not read one vector
    for each token, such as some experts.

    Args:
        model: Its ranks change meanwhile.
        candidates: Ranks of each candidate.
        energies: Energies of the model's matrices, per token.
        examples: Calibration examples.
        batch_tokens: Padded tokens per forward pass.
        answer_bias: Whether to fit the output head's bias to the right answers.

    Yields:
        Each block's energies as soon as its factors are there, in model order; at last the head, without energies.

    Raises:
        ScoringError: An activation is not finite.
    """
    matrices = model.matrices
    *smaller, dense = flows_of(model, [*candidates, [DENSE] * len(matrices)], examples, batch_tokens)
    blocks, total = range(len(dense.blocks)), len(dense.blocks) + 1
    names = [[matrix.name for matrix in matrices if matrix.layer == index] for index in blocks]
    energy_of = {matrix.name: energy_K for matrix, energy_K in zip(matrices, energies, strict=True)}
    for index, groups in enumerate(side_by_side(smaller, dense, names)):
        renewed = {name: energy_of[name] for name in names[index]}
        for group in groups:
            renewed |= _renew_group_(model, group, energy_of)
        yield PropagatedBlock(done=index + 1, total=total, energies=renewed)
    if answer_bias:
        for bias_V in answer_bias_of(model.model, smaller, examples).values():
            model.set_answer_bias(bias_V)
    yield PropagatedBlock(done=total, total=total, energies={})


def _renew_group_(
    model: SwitchableModel, group: Group, energy_of: Mapping[str, NDArray[np.floating]]
) -> dict[str, NDArray[np.floating]]:
    """Replace the factors of a group's matrices; return their energies, by name."""
    if (moments := _moments(group)) is None:
        return {}
    worth = [name for name in group.names if energy_of[name].any()]
    return {name: _renew_(model, name, energy_of[name], *moments) for name in worth}


def _moments(group: Group) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Return E[w x̃ᵀ] and E[x̃ x̃ᵀ] over all flows, D×D, float64; None without inputs."""
    mixed_DD: torch.Tensor | None = None
    for x_TD, dense_TD in group:
        if mixed_DD is None:
            width, device = x_TD.shape[1], x_TD.device
            mixed_DD = torch.zeros(width, width, dtype=torch.float64, device=device)
            own, dense, tokens = GramSum.zeros(width, device), GramSum.zeros(width, device), 0
        with multiplied_as(x_TD.dtype):
            mixed_DD += dense_TD.float().T @ x_TD.float()
        _require_finite(own.add_rows_(x_TD), group)
        tokens += len(x_TD)
    if mixed_DD is None:
        return None
    for dense_TD in group.read_dense():
        _require_finite(dense.add_rows_(dense_TD.to(device)), group)
    weight = (1 + DENSE_WEIGHT) * tokens
    dense_P = DENSE_WEIGHT * len(group.places) * dense.panels_P
    cross_DD = GramSum(own.width, (1 - ALPHA) * own.panels_P + dense_P).whole_KK().div_(weight)
    cross_DD += mixed_DD.mul_(ALPHA / weight)
    del mixed_DD
    gram_DD = GramSum(own.width, own.panels_P + dense_P).whole_KK().div_(weight)
    unknown_D = gram_DD.diagonal() * (own.width * len(group.places) / tokens) ** 2
    cross_DD.diagonal().add_(unknown_D)
    gram_DD.diagonal().add_(unknown_D)
    return (cross_DD, gram_DD) if gram_DD.any() else None


def _require_finite(squares: torch.Tensor, group: Group) -> None:
    if not squares.isfinite():
        raise ScoringError(
            f"the input of {group.names[0]} in a smaller model or in the dense one is not finite; "
            "try model.dtype: float32"
        )


def _renew_(
    model: SwitchableModel,
    name: str,
    energy_K: NDArray[np.floating],
    cross_DD: torch.Tensor,
    gram_DD: torch.Tensor,
) -> NDArray[np.floating]:
    """Replace the factors of a matrix; return their energies."""
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
