"""The first blocks of the dense model, tuned on the task's right answers.

A task with few answers needs few blocks: the last ones of a language model prepare the next word. So the model is cut
behind its first blocks, and what is left learns the answers from the calibration records ("Why Lift so Heavy", arXiv
2402.11700; depth pruning, arXiv 2403.03853). Everything after works on that model: moments, factors, search. It is also
the reference of every drop, since it has had the same help as the candidates.

Legend: S examples of a batch, C choices.
"""

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F
from transformers import PreTrainedModel

from ranksieve.search.errors import ScoringError
from ranksieve.workers.forward.batches import longest_row, make_batches
from ranksieve.workers.forward.likelihood import answer_logits, choice_scores, right_choices
from ranksieve.workers.model.matrices import block_list
from ranksieve.workers.types.plan import Example

STEP_EXAMPLES = 16
WARM_UP = 0.1

MEASURED_WIDTH = 576
"""Hidden size of the model that `Tuning.learning_rate` was chosen on.

AdamW's best rate falls as one over the width (arXiv 2203.03466, table 3).
"""

TRAINED_BYTES = 16
"""Bytes per trained number: itself, its gradient and AdamW's two moments, float32."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Tuning:
    """Settings of tuning.

    Without epochs, nothing is cut or tuned. `examples` of None are all. `depth`: share of the blocks that stays,
    rounded up.
    """

    epochs: int = 0
    examples: int | None = None
    learning_rate: float = 1e-3
    depth: float = 1.0


def blocks_of(blocks: int, depth: float) -> int:
    """Return how many of a model's blocks stay."""
    return max(1, math.ceil(depth * blocks))


def cut(model: PreTrainedModel, depth: float) -> int:
    """Remove the last blocks of a model, and return how many stay."""
    _, blocks = block_list(model)
    whole, kept = len(blocks), blocks_of(len(blocks), depth)
    del blocks[kept:]
    config: Any = model.config.get_text_config()
    for name, value in vars(config).items():  # such as the types of layers
        if isinstance(value, list) and len(value) == whole:
            setattr(config, name, value[:kept])
    config.num_hidden_layers = kept
    return kept


def tune(
    model: PreTrainedModel,
    examples: Sequence[Example],
    settings: Tuning,
    batch_tokens: int,
    seed: int,
) -> Iterator[tuple[int, int]]:
    """Train the blocks and the last norm in place; yield (steps done, all steps).

    The loss is the cross-entropy of the right answer among those to choose from.

    Args:
        model: A float32 model.
        examples: Examples of the calibration split.
        settings: Settings of the training.
        batch_tokens: Padded tokens per forward pass; a step may take several.
        seed: Seed of the order of the examples.

    Raises:
        ScoringError: The loss is not finite.
    """
    rng = random.Random(seed)
    max_choices = max(example.choices for example in examples)
    by_length = sorted(examples, key=longest_row)  # so that little is padded
    groups = [by_length[start : start + STEP_EXAMPLES] for start in range(0, len(by_length), STEP_EXAMPLES)]
    batches = [make_batches(group, max_choices, batch_tokens) for group in groups]
    steps = settings.epochs * len(groups)
    order = [index for _ in range(settings.epochs) for index in rng.sample(range(len(groups)), len(groups))]
    trained = _trained(model)
    rate = settings.learning_rate * MEASURED_WIDTH / model.config.get_text_config().hidden_size
    optimizer = torch.optim.AdamW(trained, lr=rate, weight_decay=0.0, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, steps))
    for step, index in enumerate(order):
        for batch in batches[index]:
            here = batch.to(model.device)
            scores_SC, offered_SC = choice_scores(
                answer_logits(model, here), groups[index], here, max_choices
            )
            loss = F.cross_entropy(
                scores_SC.masked_fill(~offered_SC, -torch.inf),
                right_choices(groups[index], here, model.device),
                reduction="sum",
            )
            if not torch.isfinite(loss):
                raise ScoringError(
                    f"tuning: the loss is not finite in step {step}; effort quick does without it"
                )
            (loss / len(groups[index])).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        yield step + 1, steps
    model.requires_grad_(False)


def _trained(model: PreTrainedModel) -> list[torch.nn.Parameter]:
    """Return the parameters outside embeddings and output head, ready for gradients."""
    ends = [model.get_input_embeddings(), model.get_output_embeddings()]  # type: ignore[no-untyped-call]
    fixed = {id(parameter) for end in ends if end is not None for parameter in end.parameters()}
    trained = [parameter for parameter in model.parameters() if id(parameter) not in fixed]
    for parameter in trained:
        parameter.requires_grad_()
    return trained


def _rate(step: int, steps: int) -> float:
    """Return the learning rate's factor: linear warm-up, linear decay."""
    return min(1.0, (step + 1) / max(1.0, WARM_UP * steps)) * (1 - step / steps)
