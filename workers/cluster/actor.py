"""The scoring actor: a thin Ray shell around `Scorer`, and its builder."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import ray
import torch

from ranksieve.search.space.matrix import MatrixShape
from ranksieve.workers.factors.prepared import with_factors
from ranksieve.workers.machine.devices import hold_to, pick_device, require_memory
from ranksieve.workers.model.loading import load_prepared, weight_bytes
from ranksieve.workers.model.sources import load_tokenizer
from ranksieve.workers.model.switchable import SwitchableModel
from ranksieve.workers.scoring.rounded import RoundedScorer, with_rounded_factors
from ranksieve.workers.scoring.scorer import Scorer
from ranksieve.workers.types.plan import EncodedTask, ModelSource
from ranksieve.workers.types.scores import (
    Beliefs,
    Failure,
    ScoreRequest,
    Scores,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class ScorerPlan:
    """Paths and numbers that an actor needs to load; cheap to send.

    `bits`: of the candidates' weights; None keeps their dtype.
    """

    model_folder: Path
    factors_folder: Path
    matrices: tuple[MatrixShape, ...]
    batch_tokens: int
    threads: int
    device: str
    bits: int | None = None


def build_scorer(plan: ScorerPlan, task: EncodedTask) -> Scorer | RoundedScorer:
    """Load model and factors onto the device."""
    torch.set_num_threads(plan.threads)
    torch.backends.cuda.matmul.allow_tf32 = False
    device = pick_device(plan.device)
    models = 1 if plan.bits is None else 2
    require_memory(device, models * weight_bytes(plan.model_folder) + weight_bytes(plan.factors_folder))
    tokenizer = load_tokenizer(ModelSource(kind="path", location=str(plan.model_folder)))
    model = load_prepared(plan.model_folder, device, matrices=plan.matrices)
    if plan.bits is None:
        switchable = with_factors(model, plan.matrices, plan.factors_folder)
        return Scorer(switchable, tokenizer, task, plan.batch_tokens)
    switchable = with_rounded_factors(model, plan.matrices, plan.factors_folder, plan.bits)
    dense = SwitchableModel(load_prepared(plan.model_folder, device), (), {})
    return RoundedScorer(
        *(Scorer(one, tokenizer, task, plan.batch_tokens) for one in (dense, switchable)),
    )


def hold_to_part() -> None:
    """Limit this process to the part of a GPU that Ray assigned.

    See `workers.machine.devices.hold_to`.
    """
    hold_to(ray.get_runtime_context().get_assigned_resources().get("GPU", 0.0))


@ray.remote(max_restarts=0, max_task_retries=0)
class ScoringActor:
    """Actor that scores one request at a time; replaced when it dies."""

    def __init__(self, plan: ScorerPlan, task: EncodedTask) -> None:
        hold_to_part()
        self._scorer = build_scorer(plan, task)

    def pid(self) -> int:
        return os.getpid()

    def set_beliefs(self, beliefs: Mapping[str, Beliefs]) -> None:
        self._scorer.set_beliefs(beliefs)

    def score(self, request: ScoreRequest) -> Scores | Failure:
        return self._scorer.score(request)

    def score_dense(self, request: ScoreRequest) -> tuple[Scores, Beliefs]:
        return self._scorer.score_dense(request)
