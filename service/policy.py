"""Constants of the algorithm, and the policy that `effort` makes of them.

Every number stands here once. The measurements that chose them are in tests/benchmarks/README.md. Tests and
benchmarks replace entries of `EFFORTS`.
"""

from dataclasses import dataclass, field, replace
from math import lcm
from typing import Any

from ranksieve.search.evolution.settings import SearchSettings
from ranksieve.service.spec import EffortName, JobSpec, MaxDrop, TargetParams
from ranksieve.workers.types.plan import GROUP

EVALUATION_TIMEOUT_S = 1800.0
"""Time after which an actor that has not answered is replaced."""

MIDWAY_SHARE = 0.3
"""Size that second moments are gathered midway to, if the job names no size.

Other sizes gain nearly as much.
"""

TRAINED, TRAINED_TO_BE_SMALL = (0.12, 0.6), (0.1, 0.5)
"""Kept shares that training draws; the second for choices, if the smallest model within a drop is wanted.

Drawn from 0.05 to 0.3, models of movie reviews lose 3.1 points at 0.34 kept, from 0.1 to 0.5 none at 0.385.
"""

TRAIN_RATE, TRAIN_RATE_WRITTEN = 4e-4, 1e-4
"""Highest learning rates of AdamW for the factors; the second for all tasks but choices.

With 20 % kept, models write 0.980 of the dates of `tests/benchmarks/tasks/dates.yaml` with the second, and 0.920
with the first; untrained ones write 0.967.
"""

TRAINED_RECORDS, MOST_PASSES = 2048, 4
"""Records that training reads, in several passes where there are fewer, and most passes.

Tuned on 512 records of `tests/benchmarks/tasks/dates.yaml`, the model writes 0.887 of the dates after one pass, and
0.996 after three.
"""

USUAL_DEPTH = 0.6
"""Share of the blocks that probes leave of a model, to estimate jobs by.

The first 12, 15, 17 and 30 of 30 blocks, tuned on movie reviews, answer 0.855, 0.911, 0.912 and 0.912 of the confirm
split correctly. Probes choose 15.
"""

MOST_CUT = 0.5
"""Least wanted share of the blocks' parameters for which the model is not cut."""

MIDWAY_SHARE_CUT = 0.2
"""Size that second moments are gathered midway to in a model with fewer blocks, if the job names no size."""

FRONT: dict[str, Any] = {"smallest": 0.2, "largest": 0.8, "sizes": 13, "finalists": 5}
"""Sizes of a front, in even steps, and number of its points to confirm."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Policy:
    """Settings by which a job runs.

    Attributes:
        rank_step: Ranks are multiples of it, which suits matrix kernels.
        gram_examples: Most calibration records for the second moments.
        midway_share: Size that second moments are gathered midway to; None: by the objective, 1: the dense
            model.
        train_epochs: Least passes over the calibration records to tune the dense model, and then to train its
            factors. Few records get more.
        train_examples: Most calibration records of one pass.
        tune_rate: Highest learning rate of AdamW for the dense model.
        train_rate: The same for its factors; None: by the kind of the task.
        kl_weight: Share of the KL to the dense model in the loss. The rest is the rise of the right answers'
            negative log-likelihood.
        search: Settings of the genetic search.
    """

    rank_step: int = 16
    gram_examples: int = 512
    midway_share: float | None = None
    train_epochs: int = 0
    train_examples: int | None = 2048
    tune_rate: float = 3e-4
    train_rate: float | None = None
    kl_weight: float = 0.5
    search: SearchSettings = field(default_factory=SearchSettings)


EFFORTS: dict[EffortName, Policy] = {
    "quick": Policy(
        search=SearchSettings(generations=0),
    ),
    "normal": Policy(
        train_epochs=1,
        search=SearchSettings(generations=3, overlap=1, offspring=4, max_evaluations=60),
    ),
    "thorough": Policy(train_epochs=3, train_examples=None, search=SearchSettings()),
}


def policy_of(spec: JobSpec) -> Policy:
    """Return the policy for a job."""
    policy = EFFORTS[spec.effort]
    search = replace(policy.search, seed=spec.seed, full=spec.sizes.get("search", policy.search.full))
    if spec.search.max_evaluations is not None:
        search = replace(search, max_evaluations=spec.search.max_evaluations)
    return replace(
        policy,
        rank_step=policy.rank_step if spec.bits is None else lcm(policy.rank_step, GROUP),
        search=search,
        train_epochs=_passes(policy, spec.sizes.get("calibration")),
    )


def _passes(policy: Policy, records: int | None) -> int:
    """Return the passes over the calibration records.

    Args:
        policy: Policy of the effort.
        records: Number of calibration records; None: unknown, because the job is not checked yet.
    """
    if not policy.train_epochs or records is None:
        return policy.train_epochs
    return max(policy.train_epochs, min(MOST_PASSES, TRAINED_RECORDS // records))


def midway_share(spec: JobSpec) -> float | None:
    """Return the size that second moments are gathered midway to.

    None: they are gathered in the dense model.
    """
    usual = MIDWAY_SHARE if tuned_depth(spec) in (None, 1.0) else MIDWAY_SHARE_CUT
    share = policy_of(spec).midway_share or _wanted_share(spec) or usual
    return share if share < 1 else None


def tuned_depth(spec: JobSpec) -> float | None:
    """Return the share of the blocks that is expected to stay in the tuned model.

    Probes tell it for choices. For written answers all stay. None: the model is not tuned, because the job does not
    train, because its task is whole texts, or because it has choices and names matrices or wants most of the blocks.
    """
    search = spec.search
    if not policy_of(spec).train_epochs or spec.task.kind == "lm":
        return None
    if spec.task.kind == "generate":
        return 1.0
    if search.constraints or search.seeds:
        return None
    match spec.objective:
        case MaxDrop():
            return USUAL_DEPTH
        case TargetParams(share=share) if share < MOST_CUT:
            return USUAL_DEPTH
        case _:
            return None


def train_rate(spec: JobSpec) -> float:
    """Return the highest learning rate of the factors."""
    usual = TRAIN_RATE if spec.task.kind == "choice" else TRAIN_RATE_WRITTEN
    return policy_of(spec).train_rate or usual


def trained_shares(spec: JobSpec) -> tuple[float, float]:
    """Return the least and the largest kept share that training draws."""
    small = isinstance(spec.objective, MaxDrop) and spec.task.kind == "choice"
    return TRAINED_TO_BE_SMALL if small else TRAINED


def _wanted_share(spec: JobSpec) -> float | None:
    return spec.objective.share if isinstance(spec.objective, TargetParams) else None
