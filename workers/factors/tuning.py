"""The dense model, or its first blocks, tuned on the task's right answers.

A task with few answers needs few blocks: the last ones of a language model prepare the next word. So for choices the
model is cut behind those that the answers need ("Why Lift so Heavy", arXiv 2402.11700; depth pruning, arXiv
2403.03853). What is left learns the answers from the calibration records. Everything after works on that model:
moments, factors, search. It is also the reference of every drop, since it has had the same help as the candidates.

Legend: S examples of a batch, C choices.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

from ranksieve.search.errors import ScoringError
from ranksieve.workers.factors.training import descend, step_groups, step_order
from ranksieve.workers.forward.batches import Batch, make_batches
from ranksieve.workers.forward.likelihood import answer_logits
from ranksieve.workers.forward.loss import log_likelihoods, right_losses, token_shares
from ranksieve.workers.model.matrices import block_list
from ranksieve.workers.types.plan import Example

MEASURED_WIDTH = 576
"""Hidden size of the model that `Tuning.learning_rate` was chosen on.

AdamW's best rate falls as one over the width (arXiv 2203.03466, table 3).
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Tuning:
    """Settings of tuning.

    Without epochs, nothing is cut or tuned. `examples` of None are all. `whole`: whether all blocks stay, else probes
    tell how many.
    """

    epochs: int = 0
    examples: int | None = None
    learning_rate: float = 3e-4
    whole: bool = True


def keep_first(model: PreTrainedModel, kept: int) -> None:
    """Remove all blocks of a model but the first ones."""
    _, blocks = block_list(model)
    whole = len(blocks)
    del blocks[kept:]
    config: Any = model.config.get_text_config()
    for name, value in vars(config).items():  # such as the types of layers
        if isinstance(value, list) and len(value) == whole:
            setattr(config, name, value[:kept])
    config.num_hidden_layers = kept


def tune(
    model: PreTrainedModel,
    kind: str,
    examples: Sequence[Example],
    settings: Tuning,
    batch_tokens: int,
    seed: int,
    *,
    narrow: bool,
) -> Iterator[tuple[int, int]]:
    """Train the blocks and the last norm in place; yield (steps done, all steps).

    See `tune_parameters`.

    Args:
        model: A float32 model.
        kind: Kind of the task.
        examples: Examples of the calibration split.
        settings: Settings of the training.
        batch_tokens: Padded tokens per forward pass.
        seed: Seed of the order of the examples.
        narrow: Whether products are in bfloat16.

    Raises:
        ScoringError: The loss is not finite.
    """
    rate = settings.learning_rate * MEASURED_WIDTH / model.config.get_text_config().hidden_size
    chosen = trainable(model)
    try:
        yield from tune_parameters(
            model, chosen, kind, examples, settings.epochs, rate, batch_tokens, seed, narrow=narrow
        )
    except ScoringError as error:
        raise ScoringError(f"tuning: {error}; effort quick does without it") from error


def tune_parameters(
    model: PreTrainedModel,
    parameters: Sequence[torch.nn.Parameter],
    kind: str,
    examples: Sequence[Example],
    epochs: int,
    learning_rate: float,
    batch_tokens: int,
    seed: int,
    *,
    narrow: bool,
) -> Iterator[tuple[int, int]]:
    """Train some parameters in place; yield (steps done, all steps).

    The loss of an example is the cross-entropy of the right answer among those to choose from. For other kinds it is
    the mean negative log-likelihood of the right answer's tokens.

    Args:
        model: A model whose trained parameters are float32.
        parameters: Those to train.
        kind: Kind of the task.
        examples: Examples of the calibration split.
        epochs: Passes over them.
        learning_rate: Highest rate.
        batch_tokens: Padded tokens per forward pass; a step may take several.
        seed: Seed of the order of the examples.
        narrow: Whether products are in bfloat16; several times as fast where the processor has it. Parameters,
            gradients and sums stay float32.

    Raises:
        ScoringError: The loss is not finite.
    """
    max_choices = max(example.choices for example in examples)
    groups = step_groups(examples)
    batches = [make_batches(group, max_choices, batch_tokens) for group in groups]
    order = step_order(len(groups), epochs, random.Random(seed))

    def loss(step: int, batch: Batch) -> torch.Tensor:
        group, here = groups[order[step]], batch.to(model.device)
        # The cache of narrow weights would outlive the step that changes them.
        with torch.autocast(model.device.type, torch.bfloat16, enabled=narrow, cache_enabled=False):
            logits_NV = answer_logits(model, here)
        logp = log_likelihoods(kind, logits_NV, group, here, max_choices)
        losses = right_losses(kind, logp, group, here)
        if kind != "choice":
            losses = token_shares(here, max_choices) * losses
        return losses.sum() / len(group)

    yield from descend(parameters, [batches[index] for index in order], loss, learning_rate)
    model.requires_grad_(False)


def trainable(model: PreTrainedModel) -> list[torch.nn.Parameter]:
    """Return the parameters outside embeddings and output head, ready for gradients."""
    ends = [model.get_input_embeddings(), model.get_output_embeddings()]  # type: ignore[no-untyped-call]
    fixed = {id(parameter) for end in ends if end is not None for parameter in end.parameters()}
    trained = [parameter for parameter in model.parameters() if id(parameter) not in fixed]
    for parameter in trained:
        parameter.requires_grad_()
    return trained
