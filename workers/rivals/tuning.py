"""Tuning of a rival on the right answers of the calibration split."""

from collections.abc import Callable, Sequence

import torch
from transformers import PreTrainedModel

from ranksieve.search.errors import ScoringError
from ranksieve.workers.factors.tuning import tune_parameters
from ranksieve.workers.rivals.rival import Setup, scores_of, whole

EPOCHS = 1


def best_tuned(
    setup: Setup, tuned: Callable[[float], PreTrainedModel], learning_rates: Sequence[float]
) -> tuple[PreTrainedModel, float]:
    """Tune a model at each learning rate; return the best and its rate.

    The best gives the right answers of the search split the highest likelihood.

    Args:
        setup: The task.
        tuned: Makes and tunes a model at a learning rate.
        learning_rates: Rates to try.

    Raises:
        ScoringError: The loss is not finite at any of the rates.
    """
    best: tuple[float, PreTrainedModel, float] | None = None
    problem: ScoringError | None = None
    for rate in learning_rates:
        try:
            model = tuned(rate)
            scores = scores_of(setup, model)(whole(setup, "search", loss_only=True))
        except ScoringError as error:
            problem = error
            continue
        loss = float(scores.nll_nats.sum() / scores.answer_tokens.sum())
        if best is None or loss < best[0]:
            best = loss, model, rate
    if best is None:
        raise ScoringError(f"no learning rate works: {problem}") from problem
    return best[1:]


def tune(
    setup: Setup, model: PreTrainedModel, parameters: Sequence[torch.nn.Parameter], learning_rate: float
) -> None:
    """Tune some parameters of a model in place.

    Each example counts the same, however long its answer.

    Raises:
        ScoringError: The loss is not finite.
    """
    steps = tune_parameters(
        model,
        parameters,
        setup.task.kind,
        setup.task.splits["calibration"],
        EPOCHS,
        learning_rate,
        setup.batch_tokens,
        setup.seed,
        narrow=setup.dtype == torch.bfloat16,
    )
    for _ in steps:
        pass
