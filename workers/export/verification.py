"""Verification of an exported folder, loaded back as a stranger would.

Runs in a process of its own: the model comes from disk alone, through transformers and the folder's own code.
"""

import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from ranksieve.search.errors import ScoringError
from ranksieve.workers.cost.timing import MakeTimer, fastest, last_of, timer_for
from ranksieve.workers.cost.workload import Workload, forward_pass
from ranksieve.workers.machine.devices import pick_device
from ranksieve.workers.machine.limits import processors
from ranksieve.workers.model.loading import load_prepared, on_device
from ranksieve.workers.model.sources import load_tokenizer
from ranksieve.workers.model.switchable import SwitchableModel
from ranksieve.workers.scoring.scorer import Scorer
from ranksieve.workers.types.plan import EncodedTask, ModelSource
from ranksieve.workers.types.progress import Progress
from ranksieve.workers.types.scores import Failure, ScoreRequest, Scores, join_scores

SPEED_ROUNDS = 3
SPEED_EXAMPLES: dict[str, int] = {"choice": 128, "lm": 128, "generate": 32}
"""Examples to time a model on, by the kind of task: a written answer takes as many passes as it has tokens."""

LATENCY_ROUNDS = 9
CHUNK = 256


@dataclass(frozen=True, kw_only=True, slots=True)
class VerificationPlan:
    """Model to load, and how many examples of which split to score it on.

    `timed`: a forward pass to time and its number of threads, if any.
    """

    exported: Path
    dense: Path
    split: str
    examples: int
    batch_tokens: int
    threads: int
    device: str
    timed: tuple[Workload, int] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Spent:
    """Time of a forward pass of both models."""

    dense_nanoseconds: int
    nanoseconds: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Verified:
    """Scores of the exported model, both models' speed, and the timed pass.

    All are of the same examples.
    """

    scores: Scores
    dense_tokens_per_second: float
    tokens_per_second: float
    spent: Spent | None = None


def verify(
    plan: VerificationPlan, task: EncodedTask, make_timer: MakeTimer = timer_for
) -> Iterator[Progress | Verified]:
    """Yield progress and, last, the scores of the exported model.

    Args:
        plan: What to load and what to do with it.
        task: The encoded task.
        make_timer: Makes a timer of a device and a number of threads.

    Raises:
        ScoringError: The exported model cannot be scored.
    """
    torch.set_num_threads(min(plan.threads, processors()))
    device = pick_device(plan.device)
    total = plan.examples
    yield Progress(phase="verify", done=0, total=total)
    model = _load_like_a_stranger(plan.exported, device)
    exported = plain_scorer(model, _tokenizer(plan.exported), task, plan.batch_tokens)
    parts = []
    for start in range(0, total, CHUNK):
        stop = min(start + CHUNK, total)
        parts.append(score_plain(exported, plan.split, start, stop))
        yield Progress(phase="verify", done=stop, total=total)
    dense_model = load_prepared(plan.dense, device)
    dense = plain_scorer(dense_model, _tokenizer(plan.dense), task, plan.batch_tokens)
    timed = min(total, SPEED_EXAMPLES[task.kind])
    speeds = _speeds({"dense": dense, "exported": exported}, plan.split, timed)
    yield Verified(
        scores=join_scores(parts),
        dense_tokens_per_second=speeds["dense"],
        tokens_per_second=speeds["exported"],
        spent=None if plan.timed is None else _spent(dense_model, model, *plan.timed, make_timer),
    )


def plain_scorer(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, task: EncodedTask, batch_tokens: int
) -> Scorer:
    """Return a scorer of a model with fixed ranks; its requests carry no ranks."""
    return Scorer(SwitchableModel(model, (), {}), tokenizer, task, batch_tokens)


def score_plain(scorer: Scorer, split: str, start: int, stop: int, *, loss_only: bool = False) -> Scores:
    """Score a model without switchable matrices.

    With `loss_only` it writes no answers.

    Raises:
        ScoringError: The model cannot be scored.
    """
    request = ScoreRequest(ranks=(), split=split, start=start, stop=stop, loss_only=loss_only)
    scores = scorer.score(request)
    if isinstance(scores, Failure):
        raise ScoringError(f"the model in a folder cannot be scored: {scores.reason}")
    return scores


def _tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    return load_tokenizer(ModelSource(kind="path", location=str(folder)))


def _load_like_a_stranger(folder: Path, device: torch.device) -> PreTrainedModel:
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        folder, dtype="auto", trust_remote_code=True, use_safetensors=True
    )
    return on_device(model, device)


def _speeds(scorers: dict[str, Scorer], split: str, examples: int) -> dict[str, float]:
    """Return the median tokens/s of each scorer, measured in turn.

    Turns make a noisy machine noisy for all. Prompts and right answers are read: the length of written answers says
    nothing about speed.
    """
    rates: dict[str, list[float]] = {name: [] for name in scorers}
    for _ in range(SPEED_ROUNDS):
        for name, scorer in scorers.items():
            scores = score_plain(scorer, split, 0, examples, loss_only=True)
            rates[name].append(scores.tokens / scores.seconds)
    return {name: statistics.median(rate) for name, rate in rates.items()}


def _spent(
    dense: PreTrainedModel,
    exported: PreTrainedModel,
    workload: Workload,
    threads: int,
    make_timer: MakeTimer,
) -> Spent:
    """Time one forward pass of each model, in turn."""
    torch.set_num_threads(threads)
    passes = {"dense": forward_pass(dense, workload), "exported": forward_pass(exported, workload)}
    spent = last_of(fastest(passes, make_timer(dense.device, threads), LATENCY_ROUNDS, Random(0)))
    return Spent(dense_nanoseconds=spent["dense"], nanoseconds=spent["exported"])
