"""Number of a model's first blocks that a task needs, found by linear probes.

A probe predicts the right answer from the hidden state of the prompt's last token (Alain and Bengio,
arXiv 1610.01644). How much it tells rises with the blocks below it, often by leaps, and then hardly any more.

Legend: E examples, H hidden size, C answers.
"""

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedModel

from ranksieve.workers.forward.hidden import hidden_states
from ranksieve.workers.model.matrices import block_list
from ranksieve.workers.types.plan import Example

PROBED = 1024
"""Most calibration records for probes."""

ENOUGH = 0.9
"""Share that has to be told of what the best probe tells beyond the commonest answer."""

PENALTY = 0.3
"""Ridge penalty of the standardized features, per example."""

LEAST_TOLD = 3.0
"""Standard errors by which the best probe must beat the commonest answer; else all blocks are needed."""

INTERCEPT = 100.0
"""Square of the constant feature, large enough that the penalty does not shrink the intercept."""


def needed_blocks(model: PreTrainedModel, examples: Sequence[Example], batch_tokens: int) -> int:
    """Return the number of first blocks after which probes tell hardly more.

    Args:
        model: The dense model.
        examples: Examples with labels, on which probes are fitted and, left out one by one, judged.
        batch_tokens: Padded tokens per forward pass.

    Returns:
        At least 1. All blocks, if no probe tells the answers.
    """
    examples = examples[:PROBED]
    return first_enough(right_behind(model, examples, batch_tokens), examples)


def first_enough(right: Sequence[float], examples: Sequence[Example]) -> int:
    """Return the number of blocks behind which `right_behind` is high enough.

    Args:
        right: Share of the examples that the probe behind each block tells right.
        examples: The examples.
    """
    commonest = Counter(example.label for example in examples).most_common(1)[0][1] / len(examples)
    told = [share - commonest for share in right]
    if max(told) < LEAST_TOLD * math.sqrt(commonest * (1 - commonest) / len(examples)):
        return len(told)
    return next(depth for depth, gain in enumerate(told, 1) if gain >= ENOUGH * max(told))


def right_behind(model: PreTrainedModel, examples: Sequence[Example], batch_tokens: int) -> list[float]:
    """Return the share of examples that a probe behind each block tells right.

    Args:
        model: The dense model.
        examples: Examples with labels.
        batch_tokens: Padded tokens per forward pass.
    """
    labels_E = np.array([example.label for example in examples])
    depths = range(1, len(block_list(model)[1]) + 1)
    states = hidden_states(model, depths, examples, batch_tokens)
    return [_right(states[depth], labels_E) for depth in depths]


def _right(state_EH: NDArray[np.float32], labels_E: NDArray[np.int64]) -> float:
    """Return the share of examples that a ridge fit to all others tells right.

    The residuals of left-out examples are those of the fit, divided by one minus the leverage (Allen 1974).
    """
    x_EH = state_EH.astype(np.float64)
    x_EH = (x_EH - x_EH.mean(axis=0)) / (x_EH.std(axis=0) + 1e-9)
    y_EC = np.eye(labels_E.max() + 1)[labels_E]
    kernel_EE = x_EH @ x_EH.T + INTERCEPT
    inverse_EE = np.linalg.inv(kernel_EE + PENALTY * len(y_EC) * np.eye(len(y_EC)))
    left_out_EC = y_EC - (inverse_EE @ y_EC) / np.diag(inverse_EE)[:, None]
    return float((left_out_EC.argmax(axis=1) == labels_E).mean())
