"""Loads the exported folder back, the way a stranger would, and checks what it was promised to do.

Runs in a process of its own: the model comes from disk alone, through transformers and the folder's own code.
"""

import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from workers.devices import pick_device
from workers.lowrank import SwitchableModel
from workers.models import load_prepared, load_tokenizer, on_device
from workers.plan import EncodedTask, ModelSource
from workers.preparation import Progress
from workers.scorer import Scorer
from workers.scores import Failure, ScoreRequest, Scores, join_scores

SPEED_ROUNDS = 3
SPEED_EXAMPLES = 128
CHUNK = 256


@dataclass(frozen=True, kw_only=True, slots=True)
class VerificationPlan:
    """What to load and on how many examples of which split to score it."""

    exported: Path
    dense: Path
    split: str
    examples: int
    batch_tokens: int
    threads: int
    device: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Verified:
    """Scores of the exported model on those examples, and both models' speed on the same examples."""

    scores: Scores
    dense_tokens_per_second: float
    tokens_per_second: float


def verify(plan: VerificationPlan, task: EncodedTask) -> Iterator[Progress | Verified]:
    """Yields progress and, last, what the exported model did.

    Raises:
        ArithmeticError: The exported model's logits are not finite.
    """
    torch.set_num_threads(plan.threads)
    device = pick_device(plan.device)
    total = plan.examples
    yield Progress(phase="verify", done=0, total=total)
    exported = plain_scorer(
        _load_like_a_stranger(plan.exported, device), plan.exported, task, plan.batch_tokens
    )
    parts = []
    for start in range(0, total, CHUNK):
        stop = min(start + CHUNK, total)
        parts.append(score_plain(exported, plan.split, start, stop))
        yield Progress(phase="verify", done=stop, total=total)
    dense = plain_scorer(load_prepared(plan.dense, device), plan.dense, task, plan.batch_tokens)
    speeds = _speeds({"dense": dense, "exported": exported}, plan.split, min(total, SPEED_EXAMPLES))
    yield Verified(
        scores=join_scores(parts),
        dense_tokens_per_second=speeds["dense"],
        tokens_per_second=speeds["exported"],
    )


def plain_scorer(model: PreTrainedModel, folder: Path, task: EncodedTask, batch_tokens: int) -> Scorer:
    """A scorer of a model whose ranks are what they are; its requests carry no ranks."""
    tokenizer = load_tokenizer(ModelSource(kind="path", location=str(folder)))
    return Scorer(SwitchableModel(model, (), {}), tokenizer, task, batch_tokens)


def score_plain(scorer: Scorer, split: str, start: int, stop: int) -> Scores:
    """Scores a model without switchable matrices.

    Raises:
        ArithmeticError: It failed.
    """
    scores = scorer.score(ScoreRequest(ranks=(), split=split, start=start, stop=stop))
    if isinstance(scores, Failure):
        raise ArithmeticError(scores.reason)
    return scores


def _load_like_a_stranger(folder: Path, device: torch.device) -> PreTrainedModel:
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        folder, dtype="auto", trust_remote_code=True, use_safetensors=True
    )
    return on_device(model, device)


def _speeds(scorers: dict[str, Scorer], split: str, examples: int) -> dict[str, float]:
    """Median tokens/s of each scorer, measured in turn so that a noisy machine is noisy for all."""
    rates: dict[str, list[float]] = {name: [] for name in scorers}
    for _ in range(SPEED_ROUNDS):
        for name, scorer in scorers.items():
            scores = score_plain(scorer, split, 0, examples)
            rates[name].append(scores.tokens / scores.seconds)
    return {name: statistics.median(rate) for name, rate in rates.items()}
