"""Training of nested factors on the task, at many sizes at once.

Every rank stays a slice of the factors. The closed form of `factors.decomposition` is the best estimate of second
moments for small changes. At a third of the parameters changes are not small: errors of many matrices meet and shift
the decision. A short descent repairs that. Each step draws a size, takes the Lagrangian genome of that size, and moves
the components that it keeps; so one training serves every candidate of the search (slimmable networks, arXiv
1903.05134). The loss is what the search minimises: KL to the dense model and the right answers' negative
log-likelihood, weighted by `kl_weight`. For `choice` the KL over the whole vocabulary is added: a choice between
few answers teaches little per example, the dense model's whole distribution more (arXiv 1503.02531, section 2).

Legend: S examples of a batch, C choices, N answer tokens, V vocabulary, R largest rank that is trained.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from ranksieve.search.errors import ScoringError
from ranksieve.search.space.matrix import DENSE
from ranksieve.search.space.prices import Energies
from ranksieve.search.space.space import SearchSpace
from ranksieve.search.start.seeds import lagrangian
from ranksieve.workers.forward.batches import Batch, longest_row, make_batches
from ranksieve.workers.forward.likelihood import answer_logits
from ranksieve.workers.forward.loss import kl, log_likelihoods, right_losses, token_shares
from ranksieve.workers.model.switchable import SwitchableLinear, SwitchableModel, switchable_module
from ranksieve.workers.types.plan import Example

STRATA = 8
"""Strata of sizes; `STRATA` steps draw once from each, so that chance leaves out no part of the range."""

TRAINED_BYTES = 16
"""Bytes per trained number: itself, its gradient and AdamW's two moments, float32."""

STEP_EXAMPLES = 16
WARM_UP = 0.1

LARGEST_GRADIENT = 1.0
"""Norm that the gradient of a step is scaled down to.

The first steps of a model that was cut have gradients 18 times as long. Without the limit, and at a rate of 1e-3, one
seed of four of the reviews never learnt anything.
"""

VOCABULARY_WEIGHT = 0.3


@dataclass(frozen=True, kw_only=True, slots=True)
class Training:
    """Settings of training.

    Without epochs, nothing is trained. `examples` of None are all. Sizes are drawn log-uniformly between two kept
    shares.
    """

    epochs: int = 0
    examples: int | None = None
    learning_rate: float = 4e-4
    shares: tuple[float, float] = (0.12, 0.6)
    kl_weight: float = 0.5
    rank_step: int = 16


def train(
    model: SwitchableModel,
    space: SearchSpace,
    energies: Energies,
    kind: str,
    examples: Sequence[Example],
    settings: Training,
    batch_tokens: int,
    seed: int,
) -> Iterator[tuple[int, int]]:
    """Train the factors of a model in place; yield (steps done, all steps).

    Args:
        model: Its factors are float32 while they are trained, and have their own dtype again at the end.
        space: Search space of the model's matrices, in their order.
        energies: Energies for the Lagrangian genomes.
        kind: Kind of the task.
        examples: Examples of the calibration split.
        settings: Settings of the training.
        batch_tokens: Padded tokens per forward pass; a step may take several.
        seed: Seed of the sizes and of the order of the examples.

    Raises:
        ScoringError: The loss is not finite.
    """
    rng = random.Random(seed)
    max_choices = max(example.choices for example in examples)
    groups = step_groups(examples)
    batches = [make_batches(group, max_choices, batch_tokens) for group in groups]
    order = step_order(len(groups), settings.epochs, rng)
    candidates = [
        space.ranks(lagrangian(space, energies, share)) for share in _shares(settings.shares, len(order), rng)
    ]
    model.model.requires_grad_(requires_grad=False)

    def loss(step: int, batch: Batch) -> torch.Tensor:
        group = groups[order[step]]
        here = batch.to(model.model.device)
        total = _loss(model, candidates[step], kind, group, here, max_choices, settings)
        return total / len(group)

    with _Trained(model, space, candidates) as factors:
        if not factors:  # matrices too small for any rank of the grid
            return
        try:
            yield from descend(factors, [batches[index] for index in order], loss, settings.learning_rate)
        except ScoringError as error:
            raise ScoringError(f"training: {error}; effort quick does without it") from error


def descend(
    parameters: Sequence[torch.Tensor],
    batches: Sequence[Sequence[Batch]],
    loss: Callable[[int, Batch], torch.Tensor],
    learning_rate: float,
) -> Iterator[tuple[int, int]]:
    """Minimize a loss with AdamW; yield (steps done, all steps).

    Args:
        parameters: Leaves to change in place.
        batches: Batches of every step, in order; their gradients are added.
        loss: Returns the loss of one batch in a step.
        learning_rate: Highest rate; it rises linearly at first, then falls linearly.

    Raises:
        ScoringError: The loss is not finite.
    """
    steps = len(batches)
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.0, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, steps))
    for step, of_step in enumerate(batches):
        for batch in of_step:
            here = loss(step, batch)
            if not torch.isfinite(here):
                raise ScoringError(f"the loss is not finite in step {step}")
            if here.requires_grad:  # false if every matrix of the candidate is dense or gone
                here.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(parameters, LARGEST_GRADIENT)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        yield step + 1, steps


def step_groups(examples: Sequence[Example]) -> list[list[Example]]:
    """Group examples of similar length into steps, so that little is padded."""
    by_length = sorted(examples, key=longest_row)
    return [by_length[start : start + STEP_EXAMPLES] for start in range(0, len(by_length), STEP_EXAMPLES)]


def step_order(groups: int, epochs: int, rng: random.Random) -> list[int]:
    """Return the group of every step, each once an epoch."""
    return [index for _ in range(epochs) for index in rng.sample(range(groups), groups)]


class _Trained:
    """Components kept by any candidate, as float32 leaves in the model's modules."""

    def __init__(
        self, model: SwitchableModel, space: SearchSpace, candidates: Sequence[tuple[int, ...]]
    ) -> None:
        self._modules: list[tuple[SwitchableLinear, int]] = []
        for matrix, ranks in zip(space.matrices, zip(*candidates, strict=True), strict=True):
            module = switchable_module(model.model, matrix.name)
            if largest := max(rank for rank in (0, *ranks) if rank != DENSE):
                self._modules.append((module, largest))

    def __enter__(self) -> list[torch.Tensor]:
        self._whole = [(module.left_RO, module.right_RD) for module, _ in self._modules]
        for module, rank in self._modules:
            module.left_RO = module.left_RO[:rank].to(torch.float32, copy=True).requires_grad_()
            module.right_RD = module.right_RD[:rank].to(torch.float32, copy=True).requires_grad_()
        return [factor for module, _ in self._modules for factor in (module.left_RO, module.right_RD)]

    def __exit__(self, *_: object) -> None:
        for (module, rank), wholes in zip(self._modules, self._whole, strict=True):
            trained = module.left_RO, module.right_RD
            module.left_RO, module.right_RD = (
                torch.cat((part.detach().to(whole.dtype), whole[rank:]))
                for part, whole in zip(trained, wholes, strict=True)
            )


def _loss(
    model: SwitchableModel,
    ranks: tuple[int, ...],
    kind: str,
    examples: Sequence[Example],
    batch: Batch,
    max_choices: int,
    settings: Training,
) -> torch.Tensor:
    """Return the loss of a candidate, summed over the batch's examples.

    It is what the search minimises, but for the dense model's own loss. The answer tokens of an example count as their
    mean.
    """
    model.switch((DENSE,) * len(model.matrices))
    with torch.no_grad():
        dense_NV = answer_logits(model.model, batch)
    model.switch(ranks)
    logits_NV = answer_logits(model.model, batch)
    dense, logp = (
        log_likelihoods(kind, each_NV, examples, batch, max_choices) for each_NV in (dense_NV, logits_NV)
    )
    share_N, weight = token_shares(batch, max_choices), settings.kl_weight
    losses = weight * kl(dense, logp) + (1 - weight) * right_losses(kind, logp, examples, batch)
    if kind != "choice":
        return (share_N * losses).sum()
    kl_N = kl(dense_NV.log_softmax(dim=1), logits_NV.log_softmax(dim=1))
    return losses.sum() + VOCABULARY_WEIGHT * (share_N * kl_N).sum()


def _shares(bounds: tuple[float, float], steps: int, rng: random.Random) -> list[float]:
    low, high = bounds
    strata = [stratum for _ in range(0, steps, STRATA) for stratum in rng.sample(range(STRATA), STRATA)]
    return [low * (high / low) ** ((stratum + rng.random()) / STRATA) for stratum in strata[:steps]]


def _rate(step: int, steps: int) -> float:
    """Return the learning rate's factor: linear warm-up, linear decay."""
    return min(1.0, (step + 1) / max(1.0, WARM_UP * steps)) * (1 - step / steps)
