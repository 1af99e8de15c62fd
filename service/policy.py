"""Constants of the algorithm: what a job file does not set, and what `effort` makes of them.

Every number stands here once. The measurements that chose them are in tests/benchmarks/README.md. Tests and benchmarks
replace entries of `EFFORTS`.
"""

from dataclasses import dataclass, field, replace
from typing import Any

from ranksieve.search.evolution.settings import SearchSettings
from ranksieve.search.space.objectives import MaxDrop as WithinDrop
from ranksieve.service.spec import EffortName, JobSpec, MaxDrop, Pareto, TargetParams
from ranksieve.workers.factors.decomposition import Method

EVALUATION_TIMEOUT_S = 1800.0
"""An actor that has not answered by then is replaced."""

ROUND_EXAMPLES = 256
"""Calibration records of a round of reweighing, where there are as many."""

REWEIGH_PASSES, MOST_ROUNDS = 4, 8
"""Passes of reweighing over the calibration records, and most rounds that they may come to."""

DESCENT_ROUNDS, STAIRCASE_ROUNDS = 5, 8
"""Rounds of descent at most; the second where they also look for the smallest size."""

MIDWAY_SHARE = 0.3
"""Size on the way to which second moments are gathered, where none is wanted; others gain nearly as much."""

PROPAGATED_AROUND = (0.8, 1.6)
"""Sizes of the models in which errors are propagated, as multiples of the size that is wanted."""

FRONT: dict[str, Any] = {"smallest": 0.2, "largest": 0.8, "sizes": 13, "finalists": 5}
"""Sizes of a front, in even steps, and how many of its points are confirmed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Policy:
    """How a job is done.

    Attributes:
        method: Projection of the matrices; others than `task` are for comparisons.
        rank_step: Ranks are multiples of it, which suits matrix kernels.
        gram_examples: Calibration records that give the second moments, at most.
        midway_share: Size on the way to which they are gathered; None: by the objective, 1: the dense model.
        propagated_shares: Sizes of the models in which errors are propagated; None: by the objective.
        train_epochs: Passes of training over the calibration records, for tasks with choices.
        train_examples: Calibration records of one pass, at most.
        train_rate: Highest learning rate of AdamW.
        refit: Share of the dense model's flow in the targets that finalists are refit to; None: no refit.
        reweigh_rounds: Rounds of reweighing; None: by the number of calibration records.
        descent_rounds: Rounds of descent; None: by the objective.
        kl_weight: Share of the KL to the dense model in the loss; the rest is the rise of the right answers' negative
            log-likelihood.
        search: Settings of the genetic search.
    """

    method: Method = "task"
    rank_step: int = 16
    gram_examples: int | None = 512
    midway_share: float | None = None
    propagated_shares: tuple[float, ...] | None = None
    train_epochs: int = 0
    train_examples: int | None = 1024
    train_rate: float = 2e-4
    refit: float | None = None
    reweigh_rounds: int | None = None
    descent_rounds: int | None = None
    kl_weight: float = 0.5
    search: SearchSettings = field(default_factory=SearchSettings)


EFFORTS: dict[EffortName, Policy] = {
    "quick": Policy(
        refit=0.5,
        reweigh_rounds=0,
        descent_rounds=0,
        propagated_shares=(),
        search=SearchSettings(generations=0),
    ),
    "normal": Policy(
        train_epochs=1,
        search=SearchSettings(generations=3, overlap=1, offspring=10, survivors=2, max_evaluations=60),
    ),
    "thorough": Policy(train_epochs=3, train_examples=None, search=SearchSettings()),
}


def policy_of(spec: JobSpec) -> Policy:
    """How a job of this spec is done."""
    policy = EFFORTS[spec.effort]
    search = replace(policy.search, seed=spec.seed, full=spec.sizes.get("search", policy.search.full))
    if spec.search.max_evaluations is not None:
        search = replace(search, max_evaluations=spec.search.max_evaluations)
    epochs = policy.train_epochs if spec.task.kind == "choice" else 0  # not measured for written answers
    return replace(policy, search=search, train_epochs=epochs)


def parts_of(calibration: int, size: int) -> int:
    """Number of parts of a size that the calibration examples are divided into for rounds; a rest is in none."""
    return max(1, calibration // size)


def usual_rounds(calibration: int) -> int:
    """Rounds of reweighing by the number of calibration examples."""
    return min(MOST_ROUNDS, REWEIGH_PASSES * parts_of(calibration, ROUND_EXAMPLES))


def reweigh_rounds(spec: JobSpec) -> int:
    """Rounds in which the energies are reweighed; only those of `task` are in units of the loss."""
    policy = policy_of(spec)
    if policy.reweigh_rounds is not None:
        return policy.reweigh_rounds
    return usual_rounds(spec.sizes["calibration"]) if policy.method == "task" else 0


def descent_rounds(spec: JobSpec) -> int:
    """Most rounds in which the genome to start from is moved along the slopes of its loss."""
    if (rounds := policy_of(spec).descent_rounds) is not None:
        return rounds
    return STAIRCASE_ROUNDS if isinstance(spec.objective, MaxDrop) else DESCENT_ROUNDS


def midway_share(spec: JobSpec) -> float | None:
    """Size on the way to which second moments are gathered; None: they are those of the dense model."""
    policy = policy_of(spec)
    if policy.method != "task":
        return None
    share = policy.midway_share or _wanted_share(spec) or MIDWAY_SHARE
    return share if share < 1 else None


def propagated_shares(spec: JobSpec, share: float | None = None) -> tuple[float, ...] | WithinDrop:
    """Sizes of the models in which errors are propagated, or the drop that these may have; none: they are not.

    Args:
        spec: The job.
        share: Of the prunable parameters, what an objective in bytes or time leaves; None while that is not known.
    """
    policy = policy_of(spec)
    if policy.method != "task":
        return ()
    if policy.propagated_shares is not None:
        return policy.propagated_shares
    if policy.train_epochs:  # not measured with it
        return ()
    match spec.objective:
        case MaxDrop(points=points) if spec.task.kind == "choice":  # written answers may get worse by it
            return WithinDrop(points=points)
        case MaxDrop() | Pareto():
            return ()
    wanted = _wanted_share(spec) or share or MIDWAY_SHARE
    around = (round(wanted * factor, 6) for factor in PROPAGATED_AROUND) if wanted < 1 else ()
    return tuple(one for one in around if 0 < one < 1)


def propagates(spec: JobSpec) -> bool:
    """Whether errors are propagated, where the model lets them."""
    return bool(propagated_shares(spec))


def gives_bias(spec: JobSpec) -> bool:
    """Whether the output head gets a bias for fixed answers, where the model lets it."""
    return EFFORTS[spec.effort].refit is not None or propagates(spec)


def _wanted_share(spec: JobSpec) -> float | None:
    return spec.objective.share if isinstance(spec.objective, TargetParams) else None
