"""A rival, and what all of them start from.

Legend: E examples, C choices, K classes.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ranksieve.search.errors import ScoringError
from ranksieve.workers.forward.likelihood import right_share
from ranksieve.workers.model.loading import load_prepared
from ranksieve.workers.model.switchable import SwitchableModel
from ranksieve.workers.scoring.scorer import Scorer
from ranksieve.workers.types.plan import EncodedTask, Example
from ranksieve.workers.types.scores import Failure, Floats, ScoreRequest, Scores


@dataclass(frozen=True, kw_only=True, slots=True)
class Setup:
    """The dense model and the task that rivals are made of.

    `folder`: the dense model in the working dtype. `context`: longest row in tokens, if the model states one.
    `chat_template`: whether prompts are turns of a chat.
    """

    folder: Path
    dtype: torch.dtype
    tokenizer: PreTrainedTokenizerBase
    task: EncodedTask
    context: int | None
    chat_template: bool
    device: torch.device
    batch_tokens: int
    seed: int

    def load(self, dtype: torch.dtype | None = None) -> PreTrainedModel:
        """Load the dense model; a dtype of None is the working dtype."""
        return load_prepared(self.folder, self.device, dtype)

    @property
    def chooses(self) -> bool:
        """Whether the answers to choose from are the same for every record."""
        answers = {_answers(example) for examples in self.task.splits.values() for example in examples}
        return self.task.kind == "choice" and len(answers) == 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Rival:
    """A fitted model that can be scored.

    Args:
        name: What it is, for a table.
        settings: Settings that were chosen on the search split.
        size_bytes: Bytes of its files.
        score: Scores part of a split.
    """

    name: str
    settings: Mapping[str, float]
    size_bytes: int
    score: Callable[[ScoreRequest], Scores]


def language_model(
    setup: Setup, name: str, model: PreTrainedModel, settings: Mapping[str, float] | None = None
) -> Rival:
    """Return a language model as a rival."""
    return Rival(
        name=name, settings=settings or {}, size_bytes=stored_bytes(model), score=scores_of(setup, model)
    )


def scores_of(setup: Setup, model: PreTrainedModel) -> Callable[[ScoreRequest], Scores]:
    """Return a function that scores a model without switchable matrices."""
    scorer = Scorer(SwitchableModel(model, (), {}), setup.tokenizer, setup.task, setup.batch_tokens)

    def score(request: ScoreRequest) -> Scores:
        scores = scorer.score(request)
        if isinstance(scores, Failure):
            raise ScoringError(scores.reason)
        return scores

    return score


def whole(setup: Setup, split: str, *, loss_only: bool = False) -> ScoreRequest:
    """Return the request to score a whole split."""
    stop = len(setup.task.splits[split])
    return ScoreRequest(ranks=(), split=split, start=0, stop=stop, loss_only=loss_only)


def _answers(example: Example) -> tuple[tuple[int, tuple[int, ...]], ...]:
    """Return the number and the tokens of each answer to choose from."""
    return tuple(sorted((span.choice, span.ids) for row in example.rows for span in row.spans))


def stored_bytes(model: nn.Module) -> int:
    """Return the bytes of a model's tensors in a file; tied ones count once."""
    return sum({id(tensor): tensor.nbytes for tensor in model.state_dict(keep_vars=True).values()}.values())


def class_scores(examples: Sequence[Example], classes_K: np.ndarray, logp_EK: Floats) -> Scores:
    """Return the scores of a classifier.

    Args:
        examples: Examples that it was asked about.
        classes_K: Choices that it knows; it never chooses others.
        logp_EK: Log-probability of each.
    """
    logp_EC = torch.full((len(examples), max(example.choices for example in examples)), -torch.inf)
    logp_EC = logp_EC.double()
    logp_EC[:, classes_K] = torch.from_numpy(logp_EK).double()
    label_E = torch.tensor([example.label for example in examples])
    right_E = right_share(logp_EC, label_E).numpy()
    return Scores(
        quality=right_E,
        exact=right_E,
        nll_nats=-logp_EC.gather(1, label_E[:, None])[:, 0].numpy(),
        kl_nats=np.zeros(len(examples)),
        answer_tokens=np.ones(len(examples)),
        tokens=sum(len(row.ids) for example in examples for row in example.rows),
        seconds=0.0,
    )
